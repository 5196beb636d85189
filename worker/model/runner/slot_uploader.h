// The way of a step's rows and of the slots' changes to the device: one copy a step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/slot_tables.h"
#include "worker/model/runner/step_memory.h"

namespace caravan {

class SlotUploader {
 public:
  // `buffers` outlives it.
  SlotUploader(StepBuffers* buffers, int32_t max_slots, DeviceStream stream);

  // Begins a step, whose staging memory is at rest.
  void Begin(StepBuffers::Staging* staging);

  // Changes a slot's array, behind the changes before. Where one upload can't hold them, what was
  // there before is sent at once, and the host waits for that copy.
  void Change(SlotArray array, int32_t slot, int32_t offset, std::span<const int32_t> words);

  // Sends the rows and the changes that were not sent, and applies these.
  void Send(std::span<const StepRow> rows);

 private:
  struct Range {
    int32_t begin = 0, end = 0;  // empty where equal
  };

  void SendPart();
  void Apply(SlotUpload upload);
  Range& changed(SlotArray array, int32_t slot) {
    return changed_[static_cast<size_t>(slot) * kArrays + static_cast<size_t>(array)];
  }

  static constexpr size_t kArrays = 4;
  StepBuffers* const buffers_;
  const DeviceStream stream_;
  StepBuffers::Staging* staging_ = nullptr;
  SlotUpdateBuffer updates_;
  std::vector<Range> changed_;   // [slots, kArrays] hulls of what this upload changes
  std::vector<size_t> touched_;  // of them, those that are not empty
};

}  // namespace caravan
