#include "kernels/device/cublas_library.h"

#include <cublasLt.h>

#define CARAVAN_TEXT(x) #x
#define CARAVAN_EXPANDED(x) CARAVAN_TEXT(x)

namespace caravan {

const DynamicLibrary& CublasLibrary() {
  static const DynamicLibrary library("libcublasLt.so." CARAVAN_EXPANDED(CUBLAS_VER_MAJOR),
                                      CARAVAN_CUDA_LIBRARY_FOLDER);
  return library;
}

}  // namespace caravan

using caravan::CublasLibrary;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtCreate, handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtDestroy, handle);
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtGetStatusString, status);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtMatmul, handle, operation, alpha, a, a_layout, b,
                  b_layout, beta, c, c_layout, d, d_layout, algo, workspace, workspace_bytes,
                  stream);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a_layout,
    cublasLtMatrixLayout_t b_layout, cublasLtMatrixLayout_t c_layout,
    cublasLtMatrixLayout_t d_layout, cublasLtMatmulPreference_t preference, int asked,
    cublasLtMatmulHeuristicResult_t* results, int* found) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtMatmulAlgoGetHeuristic, handle, operation, a_layout,
                  b_layout, c_layout, d_layout, preference, asked, results, found);
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t operation, size_t size,
                                               cublasComputeType_t compute_type,
                                               cudaDataType_t scale_type) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtMatmulDescInit_internal, operation, size, compute_type,
                  scale_type);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtMatmulDescSetAttribute, operation, attribute, value,
                  bytes);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference,
                                                     size_t size) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtMatmulPreferenceInit_internal, preference, size);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtMatmulPreferenceSetAttribute, preference, attribute,
                  value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t leading) {
  CARAVAN_FORWARD(CublasLibrary(), cublasLtMatrixLayoutInit_internal, layout, size, type, rows,
                  cols, leading);
}

}  // extern "C"
