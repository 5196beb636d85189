// Memory where a model runs: of the host for the CPU backend, of the GPU for CUDA.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/device_memory.h"
#include "kernels/device_stream.h"
#include "worker/model/host_memory.h"

namespace caravan {

// Owns zeroed memory of a stream's device.
class ModelMemory {
 public:
  ModelMemory() = default;
  // RESOURCE_EXHAUSTED where it is not to be had; the message names `what` and the size.
  static absl::StatusOr<ModelMemory> Allocate(DeviceStream stream, int64_t bytes,
                                              std::string_view what);

  void* data() const { return host_.data() != nullptr ? host_.data() : device_.data(); }
  int64_t bytes() const { return host_.bytes() + device_.bytes(); }

 private:
  HostBuffer host_;  // at most one of the two is not empty
  DeviceMemory device_;
};

// RESOURCE_EXHAUSTED where the stream's device has not `bytes` more; the message has both numbers,
// `what` needs them and `remedy`, the flag to change. See CheckHostMemory.
absl::Status CheckMemory(DeviceStream stream, int64_t bytes, std::string_view what,
                         std::string_view remedy);

// As many bytes at `from`, in host memory, to `to`, in memory of the stream's device. Returns when
// they are there.
void CopyFromHost(void* to, const void* from, int64_t bytes, DeviceStream stream);

}  // namespace caravan
