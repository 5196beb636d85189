// Steps on the CPU: each has been run when it is enqueued.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "worker/model/kv_memory.h"
#include "worker/model/llama.h"
#include "worker/model/runner/slot_state.h"
#include "worker/model/runner/step_executor.h"

namespace caravan {

class HostExecutor final : public StepExecutor {
 public:
  // `model` outlives it.
  HostExecutor(LlamaModel* model, KvMemory kv, const RunnerLimits& limits);

  const RunnerLimits& limits() const override { return limits_; }
  absl::Status BeginEpoch(std::shared_ptr<Collectives> ranks) override;
  absl::Status Enqueue(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Finish() override;

 private:
  struct Batch;  // of one step, in the forms that operators take

  absl::StatusOr<StepResult> Run(const StepPlan& plan);
  absl::Status UpdateSlots(const StepPlan& plan);
  absl::Status CopyBlocks(const StepPlan& plan);
  absl::StatusOr<Batch> MakeBatch(const StepPlan& plan);
  absl::StatusOr<StepResult> Draw(const StepPlan& plan, MatrixView logits);
  SlotState& slot(int32_t index) { return slots_[static_cast<size_t>(index)]; }

  LlamaModel* const model_;
  const KvMemory kv_;
  const RunnerLimits limits_;
  std::vector<SlotState> slots_;
  std::shared_ptr<Collectives> ranks_;

  std::mutex mutex_;  // guards the rest
  std::deque<StepResult> results_;
};

}  // namespace caravan
