// Where an operator runs, and behind which earlier work.
#pragma once

namespace caravan {

class CudaStream;  // kernels/device/cuda_stream.h

enum class Device : unsigned char { kCpu, kCuda };
constexpr const char* NameOf(Device device) { return device == Device::kCpu ? "cpu" : "cuda"; }

// The CPU, or one CUDA stream. Operators on one stream run in order; a CPU operator has finished
// when it returns, a CUDA operator has been enqueued. The views and spans that an operator takes
// point into the stream's device's memory.
class DeviceStream {
 public:
  static DeviceStream Cpu() { return DeviceStream(nullptr); }
  static DeviceStream Cuda(CudaStream& stream) { return DeviceStream(&stream); }

  Device device() const { return cuda_ == nullptr ? Device::kCpu : Device::kCuda; }
  CudaStream& cuda() const { return *cuda_; }  // REQUIRES: device() == kCuda

 private:
  explicit DeviceStream(CudaStream* cuda) : cuda_(cuda) {}

  CudaStream* cuda_;
};

}  // namespace caravan
