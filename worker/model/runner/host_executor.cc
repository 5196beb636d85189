#include "worker/model/runner/host_executor.h"

#include <algorithm>
#include <chrono>

#include "common/status.h"
#include "kernels/paged_attention.h"
#include "kernels/sampling.h"

namespace caravan {
struct HostExecutor::Batch {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> rope_rows;
  std::vector<int32_t> query_starts = {0};
  std::vector<int32_t> context_lengths;
  std::vector<int32_t> block_tables;
  int64_t block_table_stride = 0;
  std::vector<int32_t> logit_rows;

  ForwardBatch View() const {
    return {token_ids,
            rope_rows,
            {query_starts, context_lengths, block_tables.data(), block_table_stride},
            logit_rows};
  }
};

HostExecutor::HostExecutor(LlamaModel* model, KvMemory kv, const RunnerLimits& limits)
    : model_(model),
      kv_(std::move(kv)),
      limits_(limits),
      slots_(static_cast<size_t>(limits.max_slots)) {}

absl::Status HostExecutor::BeginEpoch(std::shared_ptr<Collectives> ranks) {
  for (SlotState& slot : slots_) slot.Release();
  ranks_ = std::move(ranks);
  const std::lock_guard lock(mutex_);
  results_.clear();
  return absl::OkStatus();
}

absl::Status HostExecutor::Enqueue(const StepPlan& plan) {
  ASSIGN_OR_RETURN(StepResult result, Run(plan));
  const std::lock_guard lock(mutex_);
  results_.push_back(std::move(result));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> HostExecutor::Finish() {
  const std::lock_guard lock(mutex_);
  CARAVAN_CHECK(!results_.empty(), "no step was enqueued");
  StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

absl::StatusOr<StepResult> HostExecutor::Run(const StepPlan& plan) {
  const auto start = std::chrono::steady_clock::now();
  StepResult result;
  RETURN_IF_ERROR(UpdateSlots(plan));
  if (!plan.work.empty()) {
    ASSIGN_OR_RETURN(const Batch batch, MakeBatch(plan));
    RETURN_IF_ERROR(CopyBlocks(plan));
    ASSIGN_OR_RETURN(const MatrixView logits,
                     model_->Forward(batch.View(), kv_, *ranks_, DeviceStream::Cpu()));
    ASSIGN_OR_RETURN(result, Draw(plan, logits));
  }
  result.step = plan.step;
  result.run_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

absl::Status HostExecutor::UpdateSlots(const StepPlan& plan) {
  const auto check = [this](int32_t index) {
    if (index >= 0 && index < limits_.max_slots) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat("step plan: slot ", index, " of ", limits_.max_slots, " does not exist"));
  };
  for (const int32_t released : plan.released_slots) {
    RETURN_IF_ERROR(check(released));
    slot(released).Release();
  }
  for (const SlotSetup& setup : plan.setups) {
    RETURN_IF_ERROR(check(setup.slot));
    slot(setup.slot).Setup(setup, limits_.vocab_size);
  }
  for (const SlotWork& work : plan.work) {
    RETURN_IF_ERROR(check(work.slot));
    RETURN_IF_ERROR(slot(work.slot).BeginWork(work, limits_.num_blocks, limits_.block_tokens));
    if (int64_t{work.start_position} + work.num_tokens > limits_.max_context_tokens) {
      return absl::InternalError(absl::StrCat("step plan: slot ", work.slot, " exceeds ",
                                              limits_.max_context_tokens, " positions"));
    }
  }
  return absl::OkStatus();
}

absl::Status HostExecutor::CopyBlocks(const StepPlan& plan) {
  if (plan.copies.empty()) return absl::OkStatus();
  std::vector<BlockCopy> copies;
  for (const KvBlockCopy& copy : plan.copies) {
    const auto exists = [this](int32_t b) { return b >= 0 && b < limits_.num_blocks; };
    if (!exists(copy.from) || !exists(copy.to) || copy.kv_group != 0) {
      return absl::InternalError(absl::StrCat("step plan: copy of block ", copy.from, " to ",
                                              copy.to, " of ", limits_.num_blocks));
    }
    copies.push_back({copy.from, copy.to});
  }
  for (int32_t layer = 0; layer < model_->config().num_layers; ++layer) {
    CopyKvBlocks(kv_.layer(layer), copies, DeviceStream::Cpu());
  }
  return absl::OkStatus();
}

absl::StatusOr<HostExecutor::Batch> HostExecutor::MakeBatch(const StepPlan& plan) {
  if (plan.num_tokens() > limits_.max_batch_tokens) {
    return absl::InternalError(absl::StrCat("step plan: ", plan.num_tokens(), " tokens, at most ",
                                            limits_.max_batch_tokens, " fit"));
  }
  Batch batch;
  const auto tokens = static_cast<size_t>(plan.num_tokens());
  batch.token_ids.reserve(tokens);
  batch.rope_rows.reserve(tokens);
  model_->rope().BeginStep();
  for (const SlotWork& work : plan.work) {
    const SlotState& state = slot(work.slot);
    for (int32_t i = 0; i < work.num_tokens; ++i) {
      const int32_t position = work.start_position + i;
      batch.token_ids.push_back(state.tokens()[static_cast<size_t>(position)]);
      batch.rope_rows.push_back(model_->rope().RowFor(position, state.prompt_tokens()));
    }
    batch.query_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
    batch.context_lengths.push_back(work.start_position + work.num_tokens);
    if (work.sample) batch.logit_rows.push_back(batch.query_starts.back() - 1);
    batch.block_table_stride =
        std::max(batch.block_table_stride, static_cast<int64_t>(state.blocks().size()));
  }
  batch.block_tables.resize(plan.work.size() * static_cast<size_t>(batch.block_table_stride));
  auto row = batch.block_tables.begin();
  for (const SlotWork& work : plan.work) {
    const auto blocks = slot(work.slot).blocks();
    std::copy(blocks.begin(), blocks.end(), row);
    row += batch.block_table_stride;
  }
  return batch;
}

// Rank 0 draws; the ids go to all ranks, which append them to their slots.
absl::StatusOr<StepResult> HostExecutor::Draw(const StepPlan& plan, MatrixView logits) {
  std::vector<const SlotWork*> drawing;
  for (const SlotWork& work : plan.work) {
    if (work.sample) drawing.push_back(&work);
  }
  StepResult result;
  if (drawing.empty()) return result;
  std::vector<SamplingOutput> outputs(drawing.size());
  if (ranks_->rank() == 0) {
    std::vector<SamplingRow> rows;
    rows.reserve(drawing.size());
    for (const SlotWork* work : drawing) {
      rows.push_back(slot(work->slot).RowFor(work->start_position + work->num_tokens));
    }
    Sample(logits, limits_.vocab_size, rows, outputs, DeviceStream::Cpu());
  }
  std::vector<int32_t> ids;
  ids.reserve(outputs.size());
  for (const SamplingOutput& output : outputs) ids.push_back(output.token_id);
  RETURN_IF_ERROR(ranks_->Broadcast(ids.data(), ids.size() * sizeof(int32_t), /*root=*/0));
  for (size_t i = 0; i < drawing.size(); ++i) {
    outputs[i].token_id = ids[i];
    slot(drawing[i]->slot).SetToken(drawing[i]->start_position + drawing[i]->num_tokens, ids[i]);
    result.slots.push_back(SlotResultOf(drawing[i]->slot, outputs[i]));
  }
  return result;
}

}  // namespace caravan
