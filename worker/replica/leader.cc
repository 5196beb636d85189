#include "worker/replica/leader.h"

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "worker/replica/local_host.h"
#include "worker/replica/step_plan_codec.h"

namespace caravan {

ReplicaLeader::ReplicaLeader(LeaderOptions options)
    : options_(std::move(options)),
      host_(LocalHostName()),
      boot_id_(LocalBootId()),
      followers_(static_cast<size_t>(options_.tensor_parallel)),
      wanted_(options_.load_at_start ? WantedModel::kLoaded : WantedModel::kAnything) {
  former_ = std::thread([this] { FormEpochs(); });
  watcher_ = std::thread([this] { Watch(); });
}

ReplicaLeader::~ReplicaLeader() { Stop(); }

void ReplicaLeader::Begin(const std::string& fingerprint, const RankRunner* runner) {
  const std::lock_guard lock(mutex_);
  fingerprint_ = fingerprint;
  runner_ = runner;
  // Those that came while this rank was loading.
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    if (followers_[rank].stream == nullptr) continue;
    if (const absl::Status status = CheckHello(followers_[rank].hello); !status.ok()) {
      Refuse(rank, status);
    }
  }
  changed_.notify_all();
}

absl::StatusOr<Epoch> ReplicaLeader::AwaitEpoch(uint64_t after, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const auto is_there = [&] { return stopping_ || !hopeless_.ok() || (stands_ && epoch_ > after); };
  if (!changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), is_there)) {
    return absl::DeadlineExceededError(Missing());
  }
  if (stopping_) return absl::DeadlineExceededError("the worker stops");
  RETURN_IF_ERROR(hopeless_);
  return Epoch{epoch_, ranks_, num_blocks_};
}

absl::Status ReplicaLeader::SendStep(uint64_t epoch, const StepPlan& plan) {
  v1::LeaderMessage message;
  if (options_.tensor_parallel > 1) EncodeStepPlan(plan, message.mutable_step());
  const std::lock_guard lock(mutex_);
  if (!stands_ || epoch_ != epoch) return absl::UnavailableError(loss_);
  message.set_instance(options_.instance);
  message.set_epoch(epoch);
  SendToAll(message);
  return absl::OkStatus();
}

absl::Status ReplicaLeader::StatusOf(uint64_t epoch) const {
  const std::lock_guard lock(mutex_);
  return stands_ && epoch_ == epoch ? absl::OkStatus() : absl::UnavailableError(loss_);
}

void ReplicaLeader::GiveUp(uint64_t epoch, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (epoch_ == epoch) LoseEpoch(why);
}

uint64_t ReplicaLeader::epoch() const {
  const std::lock_guard lock(mutex_);
  return stood_;
}

absl::Status ReplicaLeader::hopeless() const {
  const std::lock_guard lock(mutex_);
  return hopeless_;
}

std::vector<v1::WorkerRank> ReplicaLeader::followers() const {
  const std::lock_guard lock(mutex_);
  std::vector<v1::WorkerRank> ranks;
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    const Follower& follower = followers_[rank];
    const char* absent = follower.joined_before ? "lost" : "loading";
    v1::WorkerRank& info = ranks.emplace_back();
    info.set_rank(static_cast<uint32_t>(rank));
    info.set_instance(follower.instance);
    info.set_host(follower.hello.host());
    info.set_pid(follower.hello.pid());
    const char* empty = wanted_ == WantedModel::kLoaded ? "loading" : "unloaded";
    info.set_state(follower.stream == nullptr ? absent : follower.loaded ? "ready" : empty);
    info.set_step(follower.progress.step());
    info.set_memory_bytes(follower.progress.memory_bytes());
    info.set_device(follower.hello.device_name());
    info.set_device_memory_bytes(follower.progress.device_memory_bytes());
    info.set_device_total_bytes(follower.hello.device_total_bytes());
  }
  return ranks;
}

void ReplicaLeader::Dismiss(const absl::Status& reason) {
  const std::lock_guard lock(mutex_);
  stands_ = false;
  loss_ = "the replica is dismissed";
  v1::LeaderMessage message = NewMessage();
  message.mutable_leave()->set_code(static_cast<int32_t>(reason.code()));
  message.mutable_leave()->set_reason(std::string(reason.message()));
  SendToAll(message);
  for (Follower& follower : followers_) {
    if (follower.stream != nullptr) follower.stream->Close();
    follower.stream = nullptr;
  }
}

void ReplicaLeader::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    LoseEpoch("the leader stops");
    for (Follower& follower : followers_) {
      if (follower.stream != nullptr) follower.stream->Break();
      follower.stream = nullptr;
    }
  }
  changed_.notify_all();
  if (former_.joinable()) former_.join();
  if (watcher_.joinable()) watcher_.join();
}

grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage>* ReplicaLeader::Join(
    grpc::CallbackServerContext* context) {
  const auto stream = JoinStream::Open(context, this);
  stream->Start();
  return stream.get();
}

void ReplicaLeader::OnFollowerMessage(const std::shared_ptr<JoinStream>& stream,
                                      const v1::FollowerMessage& message) {
  bool drain = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (message.has_hello()) OnHello(stream, message);
    const int rank = RankOf(stream.get());
    // Fenced: a stream that another has replaced, or the words of another process life.
    if (rank == 0 || message.instance() != followers_[rank].instance) return;
    Follower& follower = followers_[rank];
    follower.last_heard = absl::Now();
    if (message.has_progress()) follower.progress = message.progress();
    if (message.has_unloaded()) OnUnloaded(rank, message.unloaded());
    drain = message.has_draining();
    // Fenced: what belongs to an epoch that is no more.
    if (message.epoch() == epoch_) {
      OnFormed(follower, message);
      if (message.has_failed()) OnFailed(rank, message.failed());
    }
  }
  changed_.notify_all();
  if (drain && options_.on_drain) options_.on_drain();
}

void ReplicaLeader::OnFormed(Follower& follower, const v1::FollowerMessage& message) {
  if (!forming_) return;
  if (message.has_rendezvous()) {
    follower.address = message.rendezvous().address();
    follower.has_address = true;
  }
  if (message.has_ready()) follower.ready = true;
}

void ReplicaLeader::OnHello(const std::shared_ptr<JoinStream>& stream,
                            const v1::FollowerMessage& message) {
  const v1::FollowerHello& hello = message.hello();
  const int rank = static_cast<int>(hello.rank().tensor());
  if (rank < 1 || rank >= options_.tensor_parallel) {
    v1::LeaderMessage refusal = NewMessage();
    refusal.mutable_leave()->set_code(static_cast<int32_t>(absl::StatusCode::kInvalidArgument));
    refusal.mutable_leave()->set_reason(absl::StrCat(
        "rank ", hello.rank().tensor(),
        " does not fit --tensor_parallel=", options_.tensor_parallel, " of the leader"));
    stream->Send(std::move(refusal));
    return stream->Close();
  }
  Follower& follower = followers_[rank];
  if (follower.stream != nullptr && follower.stream != stream) {
    if (follower.instance == message.instance()) {
      follower.stream->Break();
    } else {
      Refuse(rank, absl::AbortedError(absl::StrCat("another process has joined as rank ", rank)));
    }
    LoseEpoch(absl::StrCat("rank ", rank, " joined anew"));
  }
  follower = Follower();
  follower.stream = stream;
  follower.instance = message.instance();
  follower.hello = hello;
  follower.last_heard = absl::Now();
  follower.joined_before = true;
  follower.loaded = !hello.unloaded();
  LogInfo("rank joined", {{"rank", rank},
                          {"host", hello.host()},
                          {"pid", hello.pid()},
                          {"instance", follower.instance},
                          {"loaded", follower.loaded}});
  TellWhatToHold(follower);
  if (runner_ == nullptr) return;  // judged by Begin
  if (const absl::Status status = CheckHello(hello); !status.ok()) Refuse(rank, status);
}

absl::Status ReplicaLeader::CheckHello(const v1::FollowerHello& hello) const {
  const auto differs = [&](const char* what, const std::string& its, const std::string& ours) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", hello.rank().tensor(), " has ", what,
                                                      " ", its, ", the leader ", ours,
                                                      ": start all ranks alike"));
  };
  if (static_cast<int>(hello.tensor_parallel()) != options_.tensor_parallel) {
    return differs("--tensor_parallel", absl::StrCat(hello.tensor_parallel()),
                   absl::StrCat(options_.tensor_parallel));
  }
  if (hello.device() != DeviceName(options_.gpu)) {
    return differs("device", hello.device(), DeviceName(options_.gpu));
  }
  if (hello.build() != options_.build) {
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", hello.rank().tensor(), " is of build ", hello.build(), ", the leader of ",
        options_.build, ": start all ranks from one build, with the same flags"));
  }
  if (hello.unloaded()) return absl::OkStatus();
  if (hello.fingerprint() != fingerprint_) {
    return differs("a model with fingerprint", hello.fingerprint(), fingerprint_);
  }
  const std::string limits = DescribeLimits(runner_->limits());
  if (hello.limits() != limits) return differs("limits", hello.limits(), limits);
  if (static_cast<int64_t>(hello.num_blocks()) < num_blocks_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", hello.rank().tensor(), " has ", hello.num_blocks(),
        " KV blocks, the replica has agreed on ", num_blocks_, ": raise its --kv_cache_bytes"));
  }
  return absl::OkStatus();
}

void ReplicaLeader::Refuse(int rank, const absl::Status& why) {
  LogError("refused rank", {{"rank", rank}, {"reason", std::string(why.message())}});
  v1::LeaderMessage message = NewMessage();
  message.mutable_leave()->set_code(static_cast<int32_t>(why.code()));
  message.mutable_leave()->set_reason(std::string(why.message()));
  followers_[rank].stream->Send(std::move(message));
  followers_[rank].stream->Close();
  followers_[rank].stream = nullptr;
}

void ReplicaLeader::OnFailed(int rank, const v1::FollowerFailed& failed) {
  if (forming_) {
    OnKindFailed(absl::Status(static_cast<absl::StatusCode>(failed.code()), failed.message()));
  }
  LoseEpoch(absl::StrCat("rank ", rank, " failed: ", failed.message()));
}

void ReplicaLeader::OnStreamClosed(const std::shared_ptr<JoinStream>& stream) {
  {
    const std::lock_guard lock(mutex_);
    const int rank = RankOf(stream.get());
    if (rank == 0) return;
    followers_[rank].stream = nullptr;
    LogWarning("rank left", {{"rank", rank}, {"instance", followers_[rank].instance}});
    LoseEpoch(absl::StrCat("rank ", rank, " was lost: its stream broke"));
  }
  changed_.notify_all();
}

int ReplicaLeader::RankOf(const JoinStream* stream) const {
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    if (followers_[rank].stream.get() == stream) return rank;
  }
  return 0;
}

void ReplicaLeader::LoseEpoch(const std::string& why) {
  if (!forming_ && !stands_) return;
  LogWarning("lost epoch", {{"epoch", epoch_}, {"reason", why}, {"formed", stands_}});
  forming_ = false;
  const bool stood = std::exchange(stands_, false);
  loss_ = why;
  if (builder_ != nullptr) builder_->Abort();
  if (ranks_ != nullptr) ranks_->Abort();
  v1::LeaderMessage message = NewMessage();
  message.mutable_abort()->set_reason(why);
  SendToAll(message);
  changed_.notify_all();
  if (stood && options_.on_loss) options_.on_loss();
}

v1::LeaderMessage ReplicaLeader::NewMessage() const {
  v1::LeaderMessage message;
  message.set_instance(options_.instance);
  message.set_epoch(epoch_);
  return message;
}

void ReplicaLeader::SendToAll(const v1::LeaderMessage& message) {
  for (const Follower& follower : followers_) {
    if (follower.stream != nullptr) follower.stream->Send(message);
  }
}

}  // namespace caravan
