// StepPlan and sampling parameters on the wire (proto/caravan/v1/{replica,worker}.proto). Lossless
// both ways.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "caravan/v1/replica.pb.h"
#include "worker/engine/model_runner.h"
#include "worker/engine/step_plan.h"

namespace caravan {

void EncodeSampling(const SamplingParams& params, v1::WorkerSampling* out);

// Copies the fields; ranges are the caller's to check. Logit biases come out by ascending token id.
SamplingParams DecodeSampling(const v1::WorkerSampling& message);

void EncodeStepPlan(const StepPlan& plan, v1::ReplicaStep* out);

// INVALID_ARGUMENT naming the field where a number is outside of `limits`: a follower never indexes
// memory with what it has not checked. KV groups other than 0 are refused: there is one today.
absl::StatusOr<StepPlan> DecodeStepPlan(const v1::ReplicaStep& message, const RunnerLimits& limits);

}  // namespace caravan
