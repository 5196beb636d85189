#include "worker/model/runner/step_memory.h"

#include "common/status.h"

namespace caravan {
namespace {

constexpr int64_t kAlignment = 256;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Hands out aligned pieces of memory; without memory it only counts.
class Pieces {
 public:
  explicit Pieces(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <typename T>
  std::span<T> Take(int64_t count) {
    std::byte* begin = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += Aligned(count * static_cast<int64_t>(sizeof(T)));
    return {reinterpret_cast<T*>(begin), begin == nullptr ? 0 : static_cast<size_t>(count)};
  }
  int64_t used() const { return used_; }

 private:
  std::byte* memory_;
  int64_t used_ = 0;
};

StepMemory LayOut(const RunnerLimits& limits, Pieces* pieces) {
  const int64_t slots = limits.max_slots;
  const int64_t tokens = limits.max_batch_tokens;
  const int64_t positions = limits.max_context_tokens;
  StepMemory memory;
  memory.rows = pieces->Take<StepRow>(slots);
  memory.words = pieces->Take<int32_t>(StepMemory::kUpdateWords);
  memory.copies = pieces->Take<BlockCopy>(StepMemory::kMostCopies);
  SlotTables& tables = memory.tables;
  tables.num_slots = limits.max_slots;
  tables.token_stride = positions + 1;
  tables.block_stride = (positions + limits.block_tokens - 1) / limits.block_tokens;
  tables.list_stride = kMaxSlotListWords;
  tables.tokens = pieces->Take<int32_t>(slots * tables.token_stride).data();
  tables.blocks = pieces->Take<int32_t>(slots * tables.block_stride).data();
  tables.lists = pieces->Take<int32_t>(slots * tables.list_stride).data();
  tables.sampling = pieces->Take<SlotSampling>(slots).data();
  StepInputs& inputs = memory.inputs;
  inputs.token_ids = pieces->Take<int32_t>(tokens);
  inputs.rope_rows = pieces->Take<int32_t>(tokens);
  inputs.query_starts = pieces->Take<int32_t>(slots + 1);
  inputs.context_lengths = pieces->Take<int32_t>(slots);
  inputs.table_rows = pieces->Take<int32_t>(slots);
  inputs.logit_rows = pieces->Take<int32_t>(slots);
  inputs.sampling = pieces->Take<SamplingRow>(slots);
  inputs.biases = pieces->Take<TokenBias>(slots * kMaxComposedBiases);
  memory.outputs = pieces->Take<SamplingOutput>(slots);
  return memory;
}

}  // namespace

StepInputs StepMemory::InputsOf(int64_t tokens, int64_t rows, int64_t samples) const {
  StepInputs some = inputs;
  const auto cut = [](auto& span, int64_t count) { span = span.first(static_cast<size_t>(count)); };
  cut(some.token_ids, tokens);
  cut(some.rope_rows, tokens);
  cut(some.query_starts, rows + 1);
  cut(some.context_lengths, rows);
  cut(some.table_rows, rows);
  cut(some.logit_rows, samples);
  cut(some.sampling, samples);
  cut(some.biases, samples * kMaxComposedBiases);
  return some;
}

int64_t StepBuffers::Bytes(const RunnerLimits& limits) {
  Pieces pieces(nullptr);
  LayOut(limits, &pieces);
  return pieces.used();
}

absl::StatusOr<StepBuffers> StepBuffers::Allocate(const RunnerLimits& limits, int64_t rope_bytes,
                                                  DeviceStream stream) {
  const int64_t bytes = Bytes(limits);
  RETURN_IF_ERROR(CheckMemory(stream, bytes, "slot tables",
                              "lower --max_running_sequences or --max_context_tokens"));
  StepBuffers buffers;
  ASSIGN_OR_RETURN(buffers.memory_, ModelMemory::Allocate(stream, bytes, "slot tables"));
  Pieces pieces(buffers.memory_.data());
  buffers.device_ = LayOut(limits, &pieces);
  const auto stage = [stream](int64_t staged) {
    return StagingMemory::Allocate(stream, staged, "a step's plan and result");
  };
  for (int32_t i = 0; i < limits.max_steps_in_flight; ++i) {
    Staging staging;
    const int64_t words = StepMemory::kUpdateWords * int64_t{sizeof(int32_t)};
    ASSIGN_OR_RETURN(staging.upload, stage(buffers.words_offset() + words));
    ASSIGN_OR_RETURN(staging.copies, stage(StepMemory::kMostCopies * int64_t{sizeof(BlockCopy)}));
    ASSIGN_OR_RETURN(staging.outputs, stage(limits.max_slots * int64_t{sizeof(SamplingOutput)}));
    ASSIGN_OR_RETURN(staging.rope, stage(rope_bytes));
    staging.begun = StreamEvent::Create(stream);
    staging.ended = StreamEvent::Create(stream);
    buffers.staging_.push_back(std::move(staging));
  }
  return buffers;
}

int64_t StepBuffers::words_offset() const {
  return reinterpret_cast<std::byte*>(device_.words.data()) -
         reinterpret_cast<std::byte*>(device_.rows.data());
}

}  // namespace caravan
