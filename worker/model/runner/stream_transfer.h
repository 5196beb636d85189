// Copies between a stream's device and the host, and points in the stream's time, for both devices:
// on the CPU everything has happened when it was asked for.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/device/cuda_graph.h"
#include "kernels/device/device_memory.h"
#include "kernels/device_stream.h"
#include "worker/model/host_memory.h"

namespace caravan {

// Owns zeroed host memory that the device of a stream copies from and to beside other work (CUDA:
// page-locked).
class StagingMemory {
 public:
  StagingMemory() = default;
  // RESOURCE_EXHAUSTED where it is not to be had; the message names `what` and the size.
  static absl::StatusOr<StagingMemory> Allocate(DeviceStream stream, int64_t bytes,
                                                std::string_view what);

  void* data() const { return host_.data() != nullptr ? host_.data() : pinned_.data(); }
  int64_t bytes() const { return host_.bytes() + pinned_.bytes(); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data());
  }

 private:
  HostBuffer host_;  // at most one of the two is not empty
  PinnedMemory pinned_;
};

// Enqueued on `stream`; the staging memory rests until it has run.
void EnqueueUpload(void* device, const void* staging, int64_t bytes, DeviceStream stream);
void EnqueueDownload(void* staging, const void* device, int64_t bytes, DeviceStream stream);

// A point in a stream's time.
class StreamEvent {
 public:
  StreamEvent() = default;
  static StreamEvent Create(DeviceStream stream);

  void Record(DeviceStream stream);
  // Waits until the stream has come to where it was recorded last. Any thread.
  void Wait() const;
  // Between two that the stream has passed.
  double SecondsSince(const StreamEvent& earlier) const;

 private:
  bool on_cuda_ = false;
  CudaEvent cuda_;
  std::chrono::steady_clock::time_point time_;
};

}  // namespace caravan
