// The way of loaded weights to the device that they are for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device_stream.h"

namespace caravan {

// Takes chunks of weights, one after the other, from one loading thread.
class WeightWriter {
 public:
  virtual ~WeightWriter() = default;

  // Where the caller is to put the `bytes` bytes that belong at `target`, on the device.
  virtual std::byte* Begin(void* target, int64_t bytes) = 0;
  // They are there: sends them on their way.
  virtual void End() = 0;
  // Waits until all of them have arrived.
  virtual void Finish() = 0;
};

// One for each of `count` threads. On the CPU the target itself is written. On CUDA each has page-
// locked memory for two chunks of at most `max_bytes` and a stream of its own, so that one chunk is
// read while the one before is copied. RESOURCE_EXHAUSTED where such memory is not to be had.
absl::StatusOr<std::vector<std::unique_ptr<WeightWriter>>> MakeWeightWriters(DeviceStream stream,
                                                                             int32_t count,
                                                                             int64_t max_bytes);

}  // namespace caravan
