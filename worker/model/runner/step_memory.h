// Memory of the steps of one rank on its device, taken once, and its staging on the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/paged_attention.h"
#include "kernels/slot_tables.h"
#include "worker/engine/model_runner.h"
#include "worker/model/model_memory.h"
#include "worker/model/runner/stream_transfer.h"

namespace caravan {

// All of it in memory of the stream's device.
struct StepMemory {
  // One upload a step: rows, and behind them the words of the slots' updates.
  std::span<StepRow> rows;      // [max_slots]
  std::span<int32_t> words;     // [kUpdateWords]
  std::span<BlockCopy> copies;  // [kMostCopies]
  SlotTables tables;
  StepInputs inputs;                  // of max_batch_tokens tokens and max_slots rows
  std::span<SamplingOutput> outputs;  // [max_slots]

  // Both of the words and of the copies, more are sent in several parts.
  static constexpr int64_t kUpdateWords = int64_t{1} << 18;
  static constexpr int64_t kMostCopies = 1024;

  // The inputs of `tokens` tokens, `rows` rows and `samples` rows of logits.
  StepInputs InputsOf(int64_t tokens, int64_t rows, int64_t samples) const;
};

class StepBuffers {
 public:
  // What a step in flight has on the host.
  struct Staging {
    StagingMemory upload;   // rows and words, laid out as on the device
    StagingMemory copies;   // BlockCopy
    StagingMemory outputs;  // SamplingOutput
    StagingMemory rope;     // scratch rows of the rope table
    StreamEvent begun, ended;

    std::span<StepRow> rows(int64_t count) const {
      return {upload.as<StepRow>(), static_cast<size_t>(count)};
    }
  };

  // Bytes on the device. `limits.num_blocks` is not looked at.
  static int64_t Bytes(const RunnerLimits& limits);

  // RESOURCE_EXHAUSTED with what is needed and which flag to change.
  static absl::StatusOr<StepBuffers> Allocate(const RunnerLimits& limits, int64_t rope_bytes,
                                              DeviceStream stream);

  const StepMemory& device() const { return device_; }
  // Of the n-th step, n = 0, 1, …: one after another of limits.max_steps_in_flight.
  Staging& staging(uint64_t n) { return staging_[n % staging_.size()]; }
  // Where in `upload` the words begin, in bytes.
  int64_t words_offset() const;

 private:
  ModelMemory memory_;
  StepMemory device_;
  std::vector<Staging> staging_;
};

}  // namespace caravan
