// ReplicaFollower's thread that forms groups and runs steps.
#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"
#include "worker/replica/follower.h"
#include "worker/replica/local_host.h"
#include "worker/replica/step_plan_codec.h"

namespace caravan {
namespace {

// The leader is quiet where no plan has come for so long.
constexpr absl::Duration kQuiet = absl::Milliseconds(20);

}  // namespace

// A step is collected when its place is needed for the next one, or where the leader is quiet: a
// plan that comes while a step runs must be submitted meanwhile, or the ranks' devices stand still
// between steps.
void ReplicaFollower::RunSteps() {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto called = [this] {
      return finished_ || wanted_model_.has_value() || !commands_.empty();
    };
    if (in_flight_ == 0 && !preparing_) {
      changed_.wait(lock, called);
    } else {
      changed_.wait_for(lock, absl::ToChronoNanoseconds(kQuiet), called);
    }
    if (finished_) return;
    if (const std::optional<bool> wanted = std::exchange(wanted_model_, std::nullopt)) {
      lock.unlock();
      SwitchModel(*wanted);
    } else if (commands_.empty()) {
      lock.unlock();
      preparing_ ? AwaitEpoch() : CollectStep();
    } else {
      const v1::LeaderMessage command = std::move(commands_.front());
      commands_.pop_front();
      lock.unlock();
      Execute(command);
    }
    lock.lock();
  }
}

void ReplicaFollower::Execute(const v1::LeaderMessage& message) {
  if (message.epoch() != epoch_) return;  // another one was configured meanwhile
  if (loaded_.runner == nullptr) return;  // no epoch is formed with a rank that has no model
  if (message.has_configure()) OnConfigure(message);
  if (message.has_rendezvous()) OnRendezvous(message);
  if (message.has_step()) OnStep(message);
}

void ReplicaFollower::OnConfigure(const v1::LeaderMessage& message) {
  const v1::Configure& configure = message.configure();
  const absl::StatusOr<CollectivesKind> kind = CollectivesKindNamed(configure.collectives());
  if (!kind.ok()) return ReportUnformed(message.epoch(), kind.status());
  GroupSpec spec;
  spec.kind = *kind;
  spec.rank = options_.rank;
  spec.world_size = options_.tensor_parallel;
  spec.gpu = options_.gpu;
  spec.shared_memory_name = configure.shared_memory_name();
  spec.operation_timeout = 2 * options_.wedge_timeout;  // the leader comes first
  spec.host = LocalAddressToward(HostOfAddress(options_.leader_address));
  DropOldGroup();
  absl::StatusOr<std::unique_ptr<CollectivesBuilder>> made = MakeCollectivesBuilder(spec);
  if (!made.ok()) return ReportUnformed(message.epoch(), made.status());
  v1::FollowerMessage answer;
  {
    const std::lock_guard lock(mutex_);
    builder_ = *std::move(made);
    answer.mutable_rendezvous()->set_address(builder_->address());
  }
  Send(message.epoch(), std::move(answer));
}

// Ending a group may take its time (a GPU's work, NCCL): not under the lock. What the runner still
// holds ends with its Reset.
void ReplicaFollower::DropOldGroup() {
  std::shared_ptr<CollectivesBuilder> builder;
  std::shared_ptr<Collectives> ranks;
  const std::lock_guard lock(mutex_);
  builder.swap(builder_);
  ranks.swap(ranks_);
}

void ReplicaFollower::OnRendezvous(const v1::LeaderMessage& message) {
  std::shared_ptr<CollectivesBuilder> builder;
  {
    const std::lock_guard lock(mutex_);
    builder = builder_;
  }
  if (builder == nullptr) return;
  const std::vector<std::string> addresses(message.rendezvous().addresses().begin(),
                                           message.rendezvous().addresses().end());
  absl::StatusOr<std::unique_ptr<Collectives>> made = builder->Connect(addresses);
  if (!made.ok()) return ReportUnformed(message.epoch(), made.status());
  const std::shared_ptr<Collectives> ranks = *std::move(made);
  loaded_.runner->Reset(ranks);
  runner_epoch_ = message.epoch();
  in_flight_ = 0;
  preparing_ = true;
  {
    const std::lock_guard lock(mutex_);
    if (message.epoch() != epoch_) return;
    ranks_ = ranks;
    builder_ = nullptr;
    in_epoch_ = true;
  }
  LogInfo("ready in epoch", {{"epoch", message.epoch()}});
  v1::FollowerMessage answer;
  answer.mutable_ready();
  Send(message.epoch(), std::move(answer));
}

void ReplicaFollower::OnStep(const v1::LeaderMessage& message) {
  const RunnerLimits& limits = loaded_.runner->limits();
  const absl::StatusOr<StepPlan> plan = DecodeStepPlan(message.step(), limits);
  if (!plan.ok()) return ReportFailure(message.epoch(), plan.status());
  if (in_flight_ == limits.max_steps_in_flight) CollectStep();
  if (!in_epoch_) return;
  if (const absl::Status status = loaded_.runner->Submit(*plan); !status.ok()) {
    return ReportFailure(runner_epoch_, status);
  }
  ++in_flight_;
}

// The results of a follower are rank 0's too.
void ReplicaFollower::CollectStep() {
  const absl::Status status = loaded_.runner->Collect().status();
  if (status.ok()) {
    --in_flight_;
  } else {
    ReportFailure(runner_epoch_, status);
  }
}

// Making ready (CUDA graphs) may fail like a step, and then no step may ever come.
void ReplicaFollower::AwaitEpoch() {
  const absl::Status status = loaded_.runner->AwaitEpoch(absl::ZeroDuration());
  if (absl::IsDeadlineExceeded(status)) return;
  preparing_ = false;
  if (!status.ok()) ReportFailure(runner_epoch_, status);
}

// Whether another kind of collectives may do is the leader's to decide.
void ReplicaFollower::ReportUnformed(uint64_t epoch, const absl::Status& status) {
  v1::FollowerMessage message;
  message.mutable_failed()->set_code(static_cast<int32_t>(status.code()));
  message.mutable_failed()->set_message(std::string(status.message()));
  Send(epoch, std::move(message));
}

// The leader drops what it says of an epoch that has fallen already. What is not the loss of a rank
// can't be mended by another epoch.
void ReplicaFollower::ReportFailure(uint64_t epoch, const absl::Status& status) {
  in_flight_ = 0;
  preparing_ = false;
  v1::FollowerMessage message;
  message.mutable_failed()->set_code(static_cast<int32_t>(status.code()));
  message.mutable_failed()->set_message(std::string(status.message()));
  Send(epoch, std::move(message));
  if (absl::IsUnavailable(status)) return;
  LogError("step failed", {{"status", ToString(status)}});
  Finish(status);
}

}  // namespace caravan
