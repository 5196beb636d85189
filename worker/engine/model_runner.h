// The seam between deciding what runs (engine) and knowing how (model, replica).
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/step_plan.h"

namespace caravan {

// Fixed for the runner's life, over epochs.
struct RunnerLimits {
  int32_t block_tokens = 16;
  int32_t num_blocks = 0;        // of each KV group
  int32_t max_slots = 0;         // sequences that can run at once
  int32_t max_batch_tokens = 0;  // tokens of one step
  int32_t max_context_tokens = 0;
  int32_t vocab_size = 0;
  int32_t max_steps_in_flight = 2;
  // Prompts longer than this have KV that depends on the prompt's length (dynamic rope scaling) and
  // share blocks only with prompts of equal length.
  int32_t max_shareable_prompt_tokens = std::numeric_limits<int32_t>::max();
  std::string dtype = "float32";  // what the model computes in, for messages
};

// Runs steps in order. Called by the engine's thread alone.
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual const RunnerLimits& limits() const = 0;

  // Enqueues a step and returns without waiting for it; at most limits().max_steps_in_flight are
  // uncollected. After an error (UNAVAILABLE: a rank was lost; anything else is fatal) every step
  // in flight is lost, and the runner takes no step until Recover has succeeded.
  virtual absl::Status Submit(const StepPlan& plan) = 0;

  // Waits for the oldest uncollected step.
  virtual absl::StatusOr<StepResult> Collect() = 0;

  // UNAVAILABLE from the moment that a rank is lost, without waiting, until Recover has succeeded.
  virtual absl::Status status() const { return absl::OkStatus(); }

  // Forms the next epoch, for at most `timeout`: OK when steps can run again, with all slots and
  // blocks empty; DEADLINE_EXCEEDED when it is not yet so (call again); any other error is fatal.
  // OK at once where nothing was lost.
  virtual absl::Status Recover(absl::Duration timeout) = 0;
};

}  // namespace caravan
