// How one rank runs its steps: the seam between the order of steps (LlamaRunner) and the device.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/sampling.h"
#include "worker/engine/model_runner.h"
#include "worker/engine/step_plan.h"
#include "worker/model/collectives.h"

namespace caravan {

// BeginEpoch and Enqueue are called by one thread, in order. Finish may run on another beside them;
// it is called once for each step that was enqueued, and never while BeginEpoch runs. At most
// limits().max_steps_in_flight steps are enqueued and not finished.
class StepExecutor {
 public:
  virtual ~StepExecutor() = default;

  virtual const RunnerLimits& limits() const = 0;

  // Drops whatever was enqueued, empties all slots and block tables, and goes on with `ranks`.
  // Errors are those of `ranks`.
  virtual absl::Status BeginEpoch(std::shared_ptr<Collectives> ranks) = 0;

  // Starts `plan` behind the steps before it. UNAVAILABLE where a rank was lost, INTERNAL where the
  // plan contradicts what the slots hold: the epoch is then over.
  virtual absl::Status Enqueue(const StepPlan& plan) = 0;

  // Waits for the oldest enqueued step; its result on rank 0 with log probabilities, on the others
  // at least the ids.
  virtual absl::StatusOr<StepResult> Finish() = 0;
};

// What a slot has drawn, as the engine takes it.
SlotResult SlotResultOf(int32_t slot, const SamplingOutput& output);

}  // namespace caravan
