// A CUDA stream with what the operators need on it. Plain C++: no CUDA header leaks from here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/cublas_plans.h"

struct CUstream_st;      // cudaStream_t
struct cublasLtContext;  // cublasLtHandle_t

namespace caravan {

// One GPU of this machine.
struct CudaDevice {
  int index = 0;
  std::string name;
  int compute_capability = 0;  // 10 · major + minor: 80, 86, 89, 90
  int num_multiprocessors = 0;
  int64_t total_bytes = 0;
  int64_t l2_bytes = 0;
  std::string pci_bus_id;
};

// The GPUs that this process may use. Empty with the reason in `*problem` where there is none: no
// driver, too old a driver, none visible, or a build without CUDA.
std::vector<CudaDevice> FindCudaDevices(std::string* problem);

// Whether this build has machine code for a compute capability, and for which it has: "90a".
bool HasCodeFor(int compute_capability);
std::string BuiltArchitectures();

// Why no stream can be had on any GPU, however long one waits: a library is missing. Empty where
// there is no such reason.
std::string CudaLibraryProblem();

struct CudaStreamOptions {
  int device = 0;
  // Scratch memory of the operators on this stream: split-k sums, parts of attention. Operators on
  // one stream run in order, so they share it.
  int64_t workspace_bytes = int64_t{64} << 20;
  // Row results never depend on the number of rows, nor on how a prompt was cut: slower.
  bool batch_invariant = false;
};

// Owns a non-blocking stream, a cuBLASLt handle and the workspace. For one thread at a time; that
// thread has made `device` its current one (Create does so for its caller, MakeCurrent for others).
class CudaStream {
 public:
  // Null with the reason in `*problem` where the device can't be had: it does not exist, is taken
  // exclusively, has too little memory, or this build has no machine code for it.
  static std::unique_ptr<CudaStream> Create(const CudaStreamOptions& options, std::string* problem);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  CUstream_st* handle() const { return stream_; }
  cublasLtContext* cublas() const { return cublas_; }
  CublasPlans& cublas_plans() { return cublas_plans_; }
  const CudaDevice& device() const { return device_; }
  bool batch_invariant() const { return options_.batch_invariant; }
  void* workspace() const { return workspace_; }
  int64_t workspace_bytes() const { return options_.workspace_bytes; }
  // Zeros [kMostArrivals] in device memory, where blocks of a kernel count themselves so that the
  // last one can go on with the work of all. Each kernel leaves zeros. Null without a workspace.
  uint32_t* arrivals() const { return arrivals_; }
  static constexpr int64_t kMostArrivals = 4096;

  // Makes the device current for the calling thread.
  void MakeCurrent() const;
  // Waits until everything that was enqueued has run. A CUDA error ends the process: it is sticky.
  void Synchronize() const;
  // Whether it has, without waiting.
  bool IsIdle() const;

 private:
  CudaStream(const CudaStreamOptions& options, CudaDevice device)
      : options_(options), device_(std::move(device)) {}

  const CudaStreamOptions options_;
  const CudaDevice device_;
  CUstream_st* stream_ = nullptr;
  cublasLtContext* cublas_ = nullptr;
  CublasPlans cublas_plans_;
  void* workspace_ = nullptr;
  uint32_t* arrivals_ = nullptr;
};

}  // namespace caravan
