// The device that a worker runs on.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device_stream.h"
#include "worker/config.h"

namespace caravan {

// Settles what --device=auto, --gpu=-1 and the time-outs of 0 ms mean here, and checks that the GPU
// can be used: "cuda" where a GPU is visible that this build has code for, else "cpu".
// FAILED_PRECONDITION with the reason where --device=cuda can't be had, INVALID_ARGUMENT where the
// rank has no GPU of its own.
absl::Status ResolveDevice(WorkerConfig* config);

// The same with the GPUs given (tests); `problem` is why there are none.
absl::Status ResolveDevice(const std::vector<CudaDevice>& devices, const std::string& problem,
                           WorkerConfig* config);

struct DeviceUse {
  std::string name;  // "cpu", or "GPU 0 NVIDIA H200"
  int64_t used_bytes = 0;
  int64_t total_bytes = 0;  // 0 on the CPU
};

// An opened device: the stream that all of a worker's kernels go to, or the CPU.
class WorkerDevice {
 public:
  // `config` is resolved. A GPU that another process still holds, for example one that dies, is
  // waited for: for at most config.gpu_memory_wait_ms. RESOURCE_EXHAUSTED with the reason after
  // that. FAILED_PRECONDITION at once where a library is missing.
  static absl::StatusOr<std::unique_ptr<WorkerDevice>> Open(const WorkerConfig& config);

  DeviceStream stream() const {
    return cuda_ == nullptr ? DeviceStream::Cpu() : DeviceStream::Cuda(*cuda_);
  }
  // Null on the CPU.
  CudaStream* cuda() const { return cuda_.get(); }

  // Waits until `bytes` of memory are free, or `deadline` has passed; the latter is no error.
  void AwaitMemory(int64_t bytes, absl::Time deadline) const;

  // Of the memory of all processes together; not older than `age`. Any thread.
  DeviceUse use(absl::Duration age = absl::Seconds(1)) const;

 private:
  WorkerDevice() = default;

  std::unique_ptr<CudaStream> cuda_;
  mutable std::mutex mutex_;  // guards the rest
  mutable DeviceUse use_;
  mutable absl::Time looked_ = absl::InfinitePast();
};

}  // namespace caravan
