#include "worker/replica/replica_runner.h"

#include <string>
#include <utility>

#include "common/status.h"

namespace caravan {

ReplicaRunner::ReplicaRunner(ReplicaLeader* leader, RankRunner* local,
                             std::function<void()> on_epoch)
    : leader_(leader), local_(local), on_epoch_(std::move(on_epoch)), limits_(local->limits()) {}

absl::Status ReplicaRunner::Submit(const StepPlan& plan) {
  RETURN_IF_ERROR(leader_->SendStep(epoch_, plan));
  return Lost(local_->Submit(plan));
}

absl::StatusOr<StepResult> ReplicaRunner::Collect() {
  absl::StatusOr<StepResult> result = local_->Collect();
  if (!result.ok()) return Lost(result.status());
  return result;
}

// The leader knows why better than the collectives that it aborted; and where they failed by
// themselves, it does not know yet.
absl::Status ReplicaRunner::Lost(const absl::Status& status) {
  if (!absl::IsUnavailable(status)) return status;
  leader_->GiveUp(epoch_, std::string(status.message()));
  return leader_->StatusOf(epoch_);
}

absl::Status ReplicaRunner::Recover(absl::Duration timeout) {
  if (!status().ok()) {
    ASSIGN_OR_RETURN(const Epoch epoch, leader_->AwaitEpoch(epoch_, timeout));
    local_->Reset(epoch.ranks);
    epoch_ = epoch.number;
    limits_.num_blocks = epoch.num_blocks;
    preparing_ = true;
  }
  if (!preparing_) return absl::OkStatus();
  const absl::Status prepared = local_->AwaitEpoch(timeout);
  if (absl::IsUnavailable(prepared)) {
    leader_->GiveUp(epoch_, std::string(prepared.message()));
    return absl::DeadlineExceededError(prepared.message());  // the next epoch may do
  }
  RETURN_IF_ERROR(prepared);
  preparing_ = false;
  if (on_epoch_) on_epoch_();
  return absl::OkStatus();
}

absl::Status ReplicaRunner::status() const { return leader_->StatusOf(epoch_); }

}  // namespace caravan
