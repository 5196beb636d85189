// Memory of a CUDA device, pinned memory of the host, and copies between them, without CUDA
// headers. What fails here other than an allocation ends the process: CUDA errors are sticky.
#pragma once

#include <cstdint>

#include "kernels/device/cuda_stream.h"

namespace caravan {

// Owns memory of the calling thread's current CUDA device, zeroed.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  // Empty (data() is null) where the device has not so much left, or there is no CUDA.
  static DeviceMemory Allocate(int64_t bytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Owns page-locked host memory, zeroed, which the device reads and writes at full speed.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  static PinnedMemory Allocate(int64_t bytes);  // empty where refused
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Bytes of the current device that are free, and all that it has.
struct DeviceMemoryInfo {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
DeviceMemoryInfo QueryDeviceMemory();

// Enqueued on `stream`; asynchronous only where host memory is pinned.
void CopyToDevice(void* device, const void* host, int64_t bytes, const CudaStream& stream);
void CopyToHost(void* host, const void* device, int64_t bytes, const CudaStream& stream);
void CopyOnDevice(void* to, const void* from, int64_t bytes, const CudaStream& stream);
void FillBytes(void* device, int value, int64_t bytes, const CudaStream& stream);

}  // namespace caravan
