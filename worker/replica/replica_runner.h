// The ModelRunner of a replica: what the leader's engine runs its steps on.
#pragma once

#include <cstdint>
#include <functional>

#include "worker/engine/model_runner.h"
#include "worker/replica/leader.h"
#include "worker/replica/rank_runner.h"

namespace caravan {

// Sends each step to the followers before it hands it to rank 0's own runner, whose collectives
// meet theirs. Recover waits for the next epoch.
class ReplicaRunner final : public ModelRunner {
 public:
  // Both outlive this. `on_epoch` is called by Recover when it has begun an epoch.
  ReplicaRunner(ReplicaLeader* leader, RankRunner* local, std::function<void()> on_epoch);

  // Known once Recover has succeeded the first time, which must be before an engine is made.
  const RunnerLimits& limits() const override { return limits_; }
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;
  absl::Status Recover(absl::Duration timeout) override;
  absl::Status status() const override;

 private:
  absl::Status Lost(const absl::Status& status);

  ReplicaLeader* const leader_;
  RankRunner* const local_;
  const std::function<void()> on_epoch_;
  RunnerLimits limits_;
  uint64_t epoch_ = 0;      // that the local runner is in
  bool preparing_ = false;  // it is not ready for it yet
};

}  // namespace caravan
