// For files that call the CUDA runtime: a failing call ends the process with the call and the
// reason, since CUDA errors are sticky.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/check.h"

#define CARAVAN_CUDA_CHECK(call)                                                 \
  do {                                                                           \
    const cudaError_t caravan_error = (call);                                    \
    if (caravan_error != cudaSuccess) [[unlikely]] {                             \
      ::caravan::internal::KernelCheckFailed(__FILE__, __LINE__, #call,          \
                                             cudaGetErrorString(caravan_error)); \
    }                                                                            \
  } while (false)

#define CARAVAN_CUBLAS_CHECK(call)                                                     \
  do {                                                                                 \
    const cublasStatus_t caravan_status = (call);                                      \
    if (caravan_status != CUBLAS_STATUS_SUCCESS) [[unlikely]] {                        \
      ::caravan::internal::KernelCheckFailed(__FILE__, __LINE__, #call,                \
                                             cublasLtGetStatusString(caravan_status)); \
    }                                                                                  \
  } while (false)
