#include "kernels/device/device_memory.h"

#include <cstring>
#include <utility>

#include "kernels/device/cuda_check.h"

namespace caravan {

DeviceMemory DeviceMemory::Allocate(int64_t bytes) {
  DeviceMemory memory;
  if (bytes <= 0) return memory;
  if (cudaMalloc(&memory.data_, static_cast<size_t>(bytes)) != cudaSuccess) {
    cudaGetLastError();  // not sticky
    memory.data_ = nullptr;
    return memory;
  }
  memory.bytes_ = bytes;
  // The null stream: it ends before a later call of this thread reaches any other stream.
  CARAVAN_CUDA_CHECK(cudaMemset(memory.data_, 0, static_cast<size_t>(bytes)));
  CARAVAN_CUDA_CHECK(cudaStreamSynchronize(nullptr));
  return memory;
}

DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) cudaFree(data_);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PinnedMemory PinnedMemory::Allocate(int64_t bytes) {
  PinnedMemory memory;
  if (bytes <= 0) return memory;
  if (cudaMallocHost(&memory.data_, static_cast<size_t>(bytes)) != cudaSuccess) {
    cudaGetLastError();
    memory.data_ = nullptr;
    return memory;
  }
  memory.bytes_ = bytes;
  std::memset(memory.data_, 0, static_cast<size_t>(bytes));
  return memory;
}

PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceMemoryInfo QueryDeviceMemory() {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  CARAVAN_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  return {static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

void CopyToDevice(void* device, const void* host, int64_t bytes, const CudaStream& stream) {
  CARAVAN_CUDA_CHECK(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes),
                                     cudaMemcpyHostToDevice, stream.handle()));
}

void CopyToHost(void* host, const void* device, int64_t bytes, const CudaStream& stream) {
  CARAVAN_CUDA_CHECK(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes),
                                     cudaMemcpyDeviceToHost, stream.handle()));
}

void CopyOnDevice(void* to, const void* from, int64_t bytes, const CudaStream& stream) {
  CARAVAN_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                                     stream.handle()));
}

void FillBytes(void* device, int value, int64_t bytes, const CudaStream& stream) {
  CARAVAN_CUDA_CHECK(cudaMemsetAsync(device, value, static_cast<size_t>(bytes), stream.handle()));
}

}  // namespace caravan
