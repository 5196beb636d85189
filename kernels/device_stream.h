// Where an operator runs, and behind which earlier work.
#pragma once

struct CUstream_st;  // cudaStream_t without a CUDA header

namespace caravan {

enum class Device : unsigned char { kCpu, kCuda };

// The CPU, or one CUDA stream. Operators on one stream run in order; a CPU operator has finished
// when it returns, a CUDA operator has been enqueued.
class DeviceStream {
 public:
  static DeviceStream Cpu() { return DeviceStream(Device::kCpu, nullptr); }
  static DeviceStream Cuda(CUstream_st* stream) { return DeviceStream(Device::kCuda, stream); }

  Device device() const { return device_; }
  CUstream_st* cuda() const { return cuda_; }

 private:
  DeviceStream(Device device, CUstream_st* cuda) : device_(device), cuda_(cuda) {}

  Device device_;
  CUstream_st* cuda_;
};

}  // namespace caravan
