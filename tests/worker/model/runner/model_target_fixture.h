// Where a test of the model or its runner runs: on the CPU, with the slots on the host or kept as
// on a device, or on the GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/cuda_stream.h"
#include "kernels/device_stream.h"
#include "worker/model/model_memory.h"
#include "worker/model/runner/llama_runner.h"

namespace caravan {

struct ModelTarget {
  Device device = Device::kCpu;
  bool slots_on_device = false;  // kCpu
  bool graphs = false;           // kCuda, as the next
  bool batch_invariant = false;
};
std::string NameOf(const ModelTarget& target);  // "cpu", "cpu_slots", "cuda_graphs_invariant"

// In every build with CUDA, whether the machine has a GPU or not.
std::vector<ModelTarget> CudaModelTargets();

bool IsThere(const ModelTarget& target, std::string* why);
#define CARAVAN_SKIP_WITHOUT_MODEL_TARGET(target)                               \
  do {                                                                          \
    std::string caravan_why;                                                    \
    if (!::caravan::IsThere(target, &caravan_why)) GTEST_SKIP() << caravan_why; \
  } while (false)

// A stream of the target for one rank; null on the CPU. All ranks of a test share one GPU.
std::unique_ptr<CudaStream> OpenStream(const ModelTarget& target);
inline DeviceStream StreamOf(const std::unique_ptr<CudaStream>& cuda) {
  return cuda == nullptr ? DeviceStream::Cpu() : DeviceStream::Cuda(*cuda);
}

// How the runner of a target is made.
LlamaRunnerOptions With(LlamaRunnerOptions options, const ModelTarget& target);

// Values in memory of a stream's device.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(const std::vector<T>& values, DeviceStream stream) : size_(values.size()) {
    const auto bytes = static_cast<int64_t>(size_ * sizeof(T));
    memory_ = *ModelMemory::Allocate(stream, bytes, "a test");
    CopyFromHost(memory_.data(), values.data(), bytes, stream);
  }
  std::span<const T> span() const { return {static_cast<const T*>(memory_.data()), size_}; }

 private:
  size_t size_;
  ModelMemory memory_;
};

// The floats of a dense matrix on a stream's device, once all that was enqueued has run.
std::vector<float> FloatsOf(ConstMatrixView matrix, DeviceStream stream);

}  // namespace caravan
