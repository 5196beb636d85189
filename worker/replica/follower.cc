#include "worker/replica/follower.h"

#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"
#include "worker/replica/heartbeat.h"
#include "worker/replica/local_host.h"

namespace caravan {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(50);
constexpr absl::Duration kLongestPause = absl::Seconds(1);
constexpr absl::Duration kDialTimeout = absl::Seconds(5);

}  // namespace

ReplicaFollower::ReplicaFollower(FollowerOptions options, RankRunner* runner)
    : options_(std::move(options)),
      stub_(v1::Replica::NewStub(MakeChannel(options_.leader_address))),
      loaded_{runner, options_.fingerprint} {}

ReplicaFollower::~ReplicaFollower() = default;

absl::Status ReplicaFollower::Run() {
  std::thread steps([this] { RunSteps(); });
  std::thread heartbeats([this] { SendHeartbeats(); });
  std::thread watch([this] { WatchLeader(); });
  bool connected = true;  // logs once a change
  absl::Duration pause = kFirstPause;
  while (!finished()) {
    grpc::Status end;
    const bool heard = ServeStream(&end);
    AbortEpoch();
    if ((heard || connected) && !finished()) {
      LogWarning("no leader",
                 {{"leader", options_.leader_address}, {"status", ToString(FromGrpcStatus(end))}});
    }
    connected = heard;
    pause = heard ? kFirstPause : std::min(kLongestPause, 2 * pause);
    std::unique_lock lock(mutex_);
    if (draining_) break;
    changed_.wait_for(lock, absl::ToChronoNanoseconds(pause), [this] { return finished_; });
  }
  Finish(absl::OkStatus());
  steps.join();
  heartbeats.join();
  watch.join();
  return result_;
}

bool ReplicaFollower::ServeStream(grpc::Status* end) {
  const auto context = std::make_shared<grpc::ClientContext>();
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return false;
    context_ = context;
    last_heard_ = absl::Now();
    leader_ = 0;
    epoch_ = 0;
  }
  std::shared_ptr<Stream> stream = stub_->Join(context.get());
  {
    const std::lock_guard lock(write_mutex_);
    stream_ = stream;
  }
  Send(0, HelloMessage());
  v1::LeaderMessage message;
  bool heard = false;
  while (stream->Read(&message)) {
    {
      const std::lock_guard lock(mutex_);
      last_heard_ = absl::Now();
      if (leader_ == 0) leader_ = message.instance();
      if (leader_ != message.instance()) continue;  // fenced
    }
    if (!std::exchange(heard, true)) {
      LogInfo("joined leader",
              {{"leader", options_.leader_address}, {"instance", message.instance()}});
    }
    Handle(message);
  }
  {
    const std::lock_guard lock(write_mutex_);
    stream_ = nullptr;
  }
  *end = stream->Finish();
  return heard;
}

v1::FollowerMessage ReplicaFollower::HelloMessage() const {
  v1::FollowerMessage message;
  v1::FollowerHello* hello = message.mutable_hello();
  hello->mutable_rank()->set_tensor(static_cast<uint32_t>(options_.rank));
  hello->set_tensor_parallel(static_cast<uint32_t>(options_.tensor_parallel));
  hello->set_build(options_.build);
  hello->set_host(LocalHostName());
  hello->set_boot_id(LocalBootId());
  hello->set_pid(static_cast<uint32_t>(getpid()));
  hello->set_memory_bytes(options_.memory_bytes ? options_.memory_bytes() : 0);
  hello->set_device(DeviceName(options_.gpu));
  hello->set_device_name(options_.device_name);
  hello->set_device_total_bytes(options_.device_total_bytes);
  const std::lock_guard lock(mutex_);
  hello->set_unloaded(loaded_.runner == nullptr);
  if (loaded_.runner == nullptr) return message;
  const RunnerLimits& limits = loaded_.runner->limits();
  hello->set_fingerprint(loaded_.fingerprint);
  hello->set_num_blocks(static_cast<uint32_t>(limits.num_blocks));
  hello->set_limits(DescribeLimits(limits));
  return message;
}

bool ReplicaFollower::Send(uint64_t epoch, v1::FollowerMessage message) {
  const std::lock_guard lock(write_mutex_);
  if (stream_ == nullptr) return false;
  message.set_instance(options_.instance);
  message.set_epoch(epoch);
  return stream_->Write(message);
}

// Run's thread: keeps the order of what comes, and aborts what runs where the epoch has ended.
void ReplicaFollower::Handle(const v1::LeaderMessage& message) {
  switch (message.message_case()) {
    case v1::LeaderMessage::kConfigure:
      if (message.epoch() <= epoch_) return;  // fenced
      AbortEpoch(message.epoch());
      break;
    case v1::LeaderMessage::kAbort:
      if (message.epoch() != epoch_) return;
      LogWarning("lost epoch", {{"epoch", message.epoch()}, {"reason", message.abort().reason()}});
      return AbortEpoch();
    case v1::LeaderMessage::kLeave:
      LogInfo("told to leave", {{"reason", message.leave().reason()}});
      return Finish(absl::Status(static_cast<absl::StatusCode>(message.leave().code()),
                                 message.leave().reason()));
    case v1::LeaderMessage::kRendezvous:
    case v1::LeaderMessage::kStep:
      if (message.epoch() != epoch_) return;  // fenced
      break;
    case v1::LeaderMessage::kLoad:
    case v1::LeaderMessage::kUnload:
      return WantModel(message.has_load());
    case v1::LeaderMessage::kHeartbeat:
    case v1::LeaderMessage::MESSAGE_NOT_SET:
      return;
  }
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back(message);
  }
  changed_.notify_all();
}

void ReplicaFollower::AbortEpoch(std::optional<uint64_t> next) {
  const std::lock_guard lock(mutex_);
  if (next) epoch_ = *next;
  AbortEpochLocked();
}

void ReplicaFollower::AbortEpochLocked() {
  in_epoch_ = false;
  commands_.clear();
  if (builder_ != nullptr) builder_->Abort();
  if (ranks_ != nullptr) ranks_->Abort();
}

void ReplicaFollower::Drain() {
  bool has_leader = false;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    has_leader = leader_ != 0;
  }
  v1::FollowerMessage message;
  message.mutable_draining();
  if (!has_leader || !Send(epoch_, std::move(message))) Stop();
}

void ReplicaFollower::Stop() { Finish(absl::OkStatus()); }

void ReplicaFollower::Finish(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    result_ = status;
    if (context_ != nullptr) context_->TryCancel();
  }
  AbortEpoch();
  changed_.notify_all();
  if (options_.on_end) options_.on_end();
}

bool ReplicaFollower::finished() const {
  const std::lock_guard lock(mutex_);
  return finished_;
}

absl::Status ReplicaFollower::result() const {
  const std::lock_guard lock(mutex_);
  return result_;
}

void ReplicaFollower::SendHeartbeats() {
  const absl::Duration interval = HeartbeatInterval(options_.rank_timeout);
  TurnClock clock(interval);
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (changed_.wait_for(lock, absl::ToChronoNanoseconds(interval),
                            [this] { return finished_; })) {
        return;
      }
    }
    const absl::Time now = absl::Now();
    JudgeOwnStep(now, clock.Late(now));
    Send(epoch_, ProgressMessage());
    JudgeGroup();
  }
}

// A thread of its own, which never writes: a write may hang until the call that it belongs to is
// ended here.
void ReplicaFollower::WatchLeader() {
  const absl::Duration interval = HeartbeatInterval(options_.rank_timeout);
  TurnClock clock(interval);
  std::unique_lock lock(mutex_);
  while (
      !changed_.wait_for(lock, absl::ToChronoNanoseconds(interval), [this] { return finished_; })) {
    const absl::Time now = absl::Now();
    last_heard_ += clock.Late(now);
    // A leader that was never heard may take its time to answer the call.
    const absl::Duration allowed =
        leader_ == 0 ? std::max(kDialTimeout, options_.rank_timeout) : options_.rank_timeout;
    if (context_ != nullptr && now - last_heard_ > allowed) context_->TryCancel();
  }
}

v1::FollowerMessage ReplicaFollower::ProgressMessage() const {
  const RankProgress progress = OwnProgress();
  v1::FollowerMessage message;
  message.mutable_progress()->set_step(progress.steps_done);
  message.mutable_progress()->set_layer(static_cast<uint32_t>(progress.layers_done));
  message.mutable_progress()->set_work(progress.work_done);
  message.mutable_progress()->set_idle(!progress.busy);
  if (options_.memory_bytes) {
    message.mutable_progress()->set_memory_bytes(options_.memory_bytes());
  }
  if (options_.device_memory_bytes) {
    message.mutable_progress()->set_device_memory_bytes(options_.device_memory_bytes());
  }
  return message;
}

// A group may fail by itself while all ranks live (NCCL's connections); a step that waits in it
// ends only when it is aborted.
void ReplicaFollower::JudgeGroup() {
  absl::Status status;
  uint64_t epoch = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!in_epoch_) return;
    status = ranks_->status();
    if (status.ok()) return;
    epoch = epoch_;
    AbortEpochLocked();
  }
  ReportUnformed(epoch, status);
}

void ReplicaFollower::JudgeOwnStep(absl::Time now, absl::Duration late) {
  const absl::Duration standstill = standstill_.Look(OwnProgress(), now, late);
  if (wedged_ || standstill <= 2 * options_.wedge_timeout) return;
  wedged_ = true;
  if (!options_.on_wedged) return;
  options_.on_wedged(absl::StrCat("rank ", options_.rank,
                                  " can't leave its step, though its epoch ",
                                  "fell for want of progress"));
}

}  // namespace caravan
