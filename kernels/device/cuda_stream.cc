#include "kernels/device/cuda_stream.h"

#include <cstdlib>
#include <string_view>

#include "kernels/device/cublas_library.h"
#include "kernels/device/cuda_check.h"

namespace caravan {
namespace {

std::string Reason(cudaError_t error) {
  cudaGetLastError();  // not sticky: the next call must not see it
  return cudaGetErrorString(error);
}

std::string VersionText(int version) {  // 12040 is 12.4
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string DriverProblem() {
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "there is no NVIDIA driver";
  return "the NVIDIA driver is for CUDA " + VersionText(driver) + ", this build needs " +
         VersionText(runtime) + ": update the driver";
}

bool QueryDevice(int index, CudaDevice* device, std::string* problem) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess) {
    *problem = "GPU " + std::to_string(index) + ": " + Reason(error);
    return false;
  }
  char bus_id[32] = {};
  cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), index);
  *device = {.index = index,
             .name = properties.name,
             .compute_capability = 10 * properties.major + properties.minor,
             .num_multiprocessors = properties.multiProcessorCount,
             .total_bytes = static_cast<int64_t>(properties.totalGlobalMem),
             .l2_bytes = properties.l2CacheSize,
             .pci_bus_id = bus_id};
  return true;
}

}  // namespace

std::vector<CudaDevice> FindCudaDevices(std::string* problem) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    *problem = DriverProblem();
    return {};
  }
  if (error != cudaSuccess || count == 0) {
    *problem = error == cudaSuccess || error == cudaErrorNoDevice
                   ? "no GPU is visible (CUDA_VISIBLE_DEVICES?)"
                   : "the GPUs can't be listed: " + std::string(cudaGetErrorString(error));
    cudaGetLastError();
    return {};
  }
  std::vector<CudaDevice> devices;
  for (int i = 0; i < count; ++i) {
    CudaDevice device;
    if (!QueryDevice(i, &device, problem)) return {};
    devices.push_back(std::move(device));
  }
  return devices;
}

std::string BuiltArchitectures() { return CARAVAN_CUDA_ARCHITECTURES; }

// Machine code runs on its own major architecture from its minor one on; "90a" on 90 alone.
bool HasCodeFor(int compute_capability) {
  const std::string_view built = CARAVAN_CUDA_ARCHITECTURES;  // "80,86,90a"
  for (size_t begin = 0; begin < built.size();) {
    const size_t comma = std::min(built.find(',', begin), built.size());
    const std::string one(built.substr(begin, comma - begin));
    const int number = std::atoi(one.c_str());
    const bool exact = one.back() == 'a';
    if (exact ? number == compute_capability
              : number / 10 == compute_capability / 10 && number <= compute_capability) {
      return true;
    }
    begin = comma + 1;
  }
  return false;
}

std::string CudaLibraryProblem() {
  const std::string& problem = CublasLibrary().problem();
  if (problem.empty()) return "";
  return "cuBLASLt is needed for matrix products and can't be loaded: " + problem;
}

std::unique_ptr<CudaStream> CudaStream::Create(const CudaStreamOptions& options,
                                               std::string* problem) {
  const std::vector<CudaDevice> devices = FindCudaDevices(problem);
  if (devices.empty()) return nullptr;
  if (options.device < 0 || options.device >= static_cast<int>(devices.size())) {
    *problem = "GPU " + std::to_string(options.device) +
               " does not exist: " + std::to_string(devices.size()) + " are visible";
    return nullptr;
  }
  const CudaDevice& device = devices[static_cast<size_t>(options.device)];
  const std::string name = "GPU " + std::to_string(device.index) + " (" + device.name + ")";
  if (!HasCodeFor(device.compute_capability)) {
    *problem = name + " has compute capability " + std::to_string(device.compute_capability / 10) +
               "." + std::to_string(device.compute_capability % 10) + ", this build has code for " +
               BuiltArchitectures() + " alone: build with CARAVAN_CUDA_ARCHITECTURES=" +
               std::to_string(device.compute_capability);
    return nullptr;
  }
  if (*problem = CudaLibraryProblem(); !problem->empty()) return nullptr;
  std::unique_ptr<CudaStream> stream(new CudaStream(options, device));
  cudaError_t error = cudaSetDevice(device.index);
  if (error == cudaSuccess) {
    error = cudaStreamCreateWithFlags(&stream->stream_, cudaStreamNonBlocking);
  }
  if (error == cudaSuccess && options.workspace_bytes > 0) {
    error = cudaMalloc(&stream->workspace_, static_cast<size_t>(options.workspace_bytes));
    constexpr size_t kArrivalBytes = kMostArrivals * sizeof(uint32_t);
    if (error == cudaSuccess) error = cudaMalloc(&stream->arrivals_, kArrivalBytes);
    if (error == cudaSuccess) {
      error = cudaMemsetAsync(stream->arrivals_, 0, kArrivalBytes, stream->stream_);
    }
  }
  if (error != cudaSuccess) {
    *problem = name + ": " + Reason(error);
    return nullptr;
  }
  if (const cublasStatus_t status = cublasLtCreate(&stream->cublas_);
      status != CUBLAS_STATUS_SUCCESS) {
    *problem = name + ": cuBLASLt: " + cublasLtGetStatusString(status);
    return nullptr;
  }
  return stream;
}

// Errors are passed over: where Create failed there may be no context, and at the end of the
// process the driver may be gone before this.
CudaStream::~CudaStream() {
  cudaSetDevice(device_.index);
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  if (cublas_ != nullptr) cublasLtDestroy(cublas_);
  if (arrivals_ != nullptr) cudaFree(arrivals_);
  if (workspace_ != nullptr) cudaFree(workspace_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void CudaStream::MakeCurrent() const { CARAVAN_CUDA_CHECK(cudaSetDevice(device_.index)); }

void CudaStream::Synchronize() const { CARAVAN_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

bool CudaStream::IsIdle() const {
  const cudaError_t error = cudaStreamQuery(stream_);
  if (error == cudaErrorNotReady) return false;
  CARAVAN_CUDA_CHECK(error);
  return true;
}

}  // namespace caravan
