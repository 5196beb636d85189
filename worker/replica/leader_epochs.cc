// ReplicaLeader's own threads: one forms epochs, one watches over the ranks.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/log.h"
#include "common/status.h"
#include "worker/replica/heartbeat.h"
#include "worker/replica/leader.h"
#include "worker/replica/local_host.h"

namespace caravan {
namespace {

constexpr absl::Duration kRetryPause = absl::Milliseconds(200);
// A rank that dies while an epoch forms can look like memory that can't be mapped, so that is
// believed only when it happens again.
constexpr int kBelievedKindFailures = 2;
// Of the very same ranks, all of which live.
constexpr int kHopelessFailures = 3;

// "rank 1 (12 steps done, in layer 3)"
std::string Describe(int rank, const RankProgress& progress) {
  return absl::StrCat("rank ", rank, " (", progress.steps_done, " steps done, ",
                      progress.busy ? absl::StrCat("in layer ", progress.layers_done) : "idle",
                      ")");
}

}  // namespace

void ReplicaLeader::FormEpochs() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock,
                  [this] { return stopping_ || (!stands_ && hopeless_.ok() && AllJoined()); });
    if (stopping_) return;
    // Ending a group may take its time (a GPU's work, NCCL): not under the lock.
    if (builder_ != nullptr || ranks_ != nullptr) {
      std::shared_ptr<CollectivesBuilder> old_builder = std::exchange(builder_, nullptr);
      std::shared_ptr<Collectives> old_ranks = std::exchange(ranks_, nullptr);
      lock.unlock();
      const absl::Time start = absl::Now();
      old_builder.reset();
      old_ranks.reset();
      lock.lock();
      ending_time_ = absl::Now() - start;
      continue;  // a follower may have left meanwhile
    }
    const absl::Status status = Form(lock);
    if (status.ok() || stopping_) continue;
    LoseEpoch(std::string(status.message()));
    CountFailure();
    changed_.wait_for(lock, absl::ToChronoNanoseconds(kRetryPause), [this] { return stopping_; });
  }
}

absl::Status ReplicaLeader::Form(std::unique_lock<std::mutex>& lock) {
  const absl::Time start = absl::Now();
  ++epoch_;
  forming_ = true;
  if (std::vector<uint64_t> ranks = Instances(); ranks != forming_ranks_) {
    forming_ranks_ = std::move(ranks);
    failures_ = 0;
  }
  kind_ = ChooseKind();
  for (Follower& follower : followers_) follower.has_address = follower.ready = false;
  if (num_blocks_ == 0) num_blocks_ = LeastBlocks();
  ASSIGN_OR_RETURN(ranks_, Connect(lock));
  RETURN_IF_ERROR(WaitWhileForming(lock, &Follower::ready, "be ready"));
  forming_ = false;
  stands_ = true;
  stood_ = epoch_;
  stood_since_ = true;
  builder_ = nullptr;
  kind_failures_ = failures_ = 0;
  standstill_in_epoch_.Restart(absl::Now());
  for (Follower& follower : followers_) follower.standstill.Restart(absl::Now());
  LogInfo("formed epoch", {{"epoch", epoch_},
                           {"ranks", options_.tensor_parallel},
                           {"collectives", options_.tensor_parallel > 1 ? NameOf(kind_) : "none"},
                           {"kv_blocks", num_blocks_},
                           {"milliseconds", absl::ToInt64Milliseconds(absl::Now() - start)},
                           {"ending_milliseconds", absl::ToInt64Milliseconds(ending_time_)}});
  ending_time_ = absl::ZeroDuration();
  changed_.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Collectives>> ReplicaLeader::Connect(
    std::unique_lock<std::mutex>& lock) {
  if (options_.tensor_parallel == 1) return std::make_shared<SingleRankCollectives>();
  const GroupSpec spec = MakeSpec();
  absl::StatusOr<std::unique_ptr<CollectivesBuilder>> made = MakeCollectivesBuilder(spec);
  if (!made.ok()) {
    OnKindFailed(made.status());
    return made.status();
  }
  const std::shared_ptr<CollectivesBuilder> builder = *std::move(made);
  builder_ = builder;
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    v1::LeaderMessage message = NewMessage();
    v1::Configure* configure = message.mutable_configure();
    configure->set_tensor_parallel(static_cast<uint32_t>(options_.tensor_parallel));
    configure->mutable_rank()->set_tensor(static_cast<uint32_t>(rank));
    configure->set_collectives(NameOf(kind_));
    configure->set_shared_memory_name(spec.shared_memory_name);
    configure->set_num_blocks(static_cast<uint32_t>(num_blocks_));
    configure->add_instances(options_.instance);
    for (int r = 1; r < options_.tensor_parallel; ++r) {
      configure->add_instances(followers_[r].instance);
    }
    followers_[rank].stream->Send(std::move(message));
  }
  RETURN_IF_ERROR(WaitWhileForming(lock, &Follower::has_address, "open their collectives"));

  std::vector<std::string> addresses = {builder->address()};
  v1::LeaderMessage message = NewMessage();
  message.mutable_rendezvous()->add_addresses(builder->address());
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    addresses.push_back(followers_[rank].address);
    message.mutable_rendezvous()->add_addresses(followers_[rank].address);
  }
  SendToAll(message);
  lock.unlock();
  absl::StatusOr<std::unique_ptr<Collectives>> ranks = builder->Connect(addresses);
  lock.lock();
  if (!forming_) return absl::UnavailableError(loss_);
  if (absl::IsFailedPrecondition(ranks.status())) OnKindFailed(ranks.status());
  RETURN_IF_ERROR(ranks.status());
  return *std::move(ranks);
}

absl::Status ReplicaLeader::WaitWhileForming(std::unique_lock<std::mutex>& lock,
                                             bool Follower::*flag, const char* what) {
  const auto all = [&] {
    return std::all_of(followers_.begin() + 1, followers_.end(),
                       [&](const Follower& follower) { return follower.*flag; });
  };
  const bool done = changed_.wait_for(lock, absl::ToChronoNanoseconds(options_.form_timeout),
                                      [&] { return stopping_ || !forming_ || all(); });
  if (stopping_ || !forming_) return absl::UnavailableError(loss_);
  if (done) return absl::OkStatus();
  std::string late;
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    if (!(followers_[rank].*flag)) {
      absl::StrAppend(&late, late.empty() ? "rank " : " and ", rank, " ",
                      followers_[rank].hello.host(), " pid ", followers_[rank].hello.pid());
    }
  }
  return absl::UnavailableError(absl::StrCat(
      late, " took longer than ", absl::ToInt64Seconds(options_.form_timeout), " s to ", what));
}

void ReplicaLeader::Watch() {
  std::unique_lock lock(mutex_);
  const absl::Duration interval = HeartbeatInterval(options_.rank_timeout);
  TurnClock clock(interval);
  while (!stopping_) {
    const absl::Time now = absl::Now();
    const absl::Duration late = clock.Late(now);
    JudgeSilence(now, late);
    if (runner_ != nullptr) JudgeProgress(now, late);
    changed_.wait_for(lock, absl::ToChronoNanoseconds(interval), [this] { return stopping_; });
  }
}

// Sends heartbeats to those that are heard.
void ReplicaLeader::JudgeSilence(absl::Time now, absl::Duration late) {
  v1::LeaderMessage heartbeat = NewMessage();
  heartbeat.mutable_heartbeat();
  if (runner_ != nullptr) {
    const RankProgress progress = runner_->progress();
    heartbeat.mutable_heartbeat()->set_step(progress.steps_done);
    heartbeat.mutable_heartbeat()->set_layer(static_cast<uint32_t>(progress.layers_done));
  }
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    Follower& follower = followers_[rank];
    follower.last_heard += late;
    if (follower.stream == nullptr) continue;
    if (now - follower.last_heard <= options_.rank_timeout) {
      follower.stream->SendIfIdle(heartbeat);
      continue;
    }
    const std::string why =
        absl::StrCat("rank ", rank, " was lost: silent for ",
                     absl::ToInt64Milliseconds(now - follower.last_heard), " ms");
    LogWarning("rank silent", {{"rank", rank}, {"instance", follower.instance}});
    // Fenced: whatever it says on this stream when it wakes is not heard.
    follower.stream->Break();
    follower.stream = nullptr;
    LoseEpoch(why);
  }
}

// Of ranks that live: does their group, and do they get on? What waits for a peer inside a step, on
// the host or on a device, waits no longer than this lets it.
void ReplicaLeader::JudgeProgress(absl::Time now, absl::Duration late) {
  const RankProgress own = runner_->progress();
  if (own_standstill_.Look(own, now, late) > 2 * options_.wedge_timeout && options_.on_wedged) {
    options_.on_wedged(absl::StrCat(Describe(0, own), " can't leave its step, though: ", loss_));
  }
  absl::Duration longest = standstill_in_epoch_.Look(own, now, late);
  std::string places = Describe(0, own);
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    const v1::FollowerProgress& said = followers_[rank].progress;
    const RankProgress progress = {said.step(), static_cast<int32_t>(said.layer()), said.work(),
                                   !said.idle()};
    longest = std::max(longest, followers_[rank].standstill.Look(progress, now, late));
    absl::StrAppend(&places, ", ", Describe(rank, progress));
  }
  if (!stands_) return;
  if (const absl::Status status = ranks_->status(); !status.ok()) {
    LoseEpoch(std::string(status.message()));
  } else if (longest > options_.wedge_timeout) {
    LoseEpoch(absl::StrCat("no progress for ", absl::FormatDuration(options_.wedge_timeout), ": ",
                           places));
  }
}

bool ReplicaLeader::AllJoined() const {
  return runner_ != nullptr &&
         std::all_of(followers_.begin() + 1, followers_.end(),
                     [](const Follower& f) { return f.stream != nullptr && f.loaded; });
}

std::string ReplicaLeader::Missing() const {
  std::string missing;
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    const Follower& follower = followers_[rank];
    if (follower.stream == nullptr || !follower.loaded) absl::StrAppend(&missing, " ", rank);
  }
  if (missing.empty()) return "the ranks form their next epoch";
  return absl::StrCat("the replica waits for rank", missing);
}

CollectivesKind ReplicaLeader::ChooseKind() {
  if (options_.collectives != "auto") {
    const absl::StatusOr<CollectivesKind> kind = CollectivesKindNamed(options_.collectives);
    CARAVAN_CHECK(kind.ok(), kind.status().message());
    return *kind;
  }
  const bool one_host =
      std::all_of(followers_.begin() + 1, followers_.end(), [this](const Follower& f) {
        return f.hello.boot_id() == boot_id_ && f.hello.host() == host_;
      });
  const bool of_host = one_host && !avoid_host_kind_;
  if (options_.gpu < 0) return of_host ? CollectivesKind::kSharedMemory : CollectivesKind::kGloo;
  if (of_host) return CollectivesKind::kPeer;
  if (options_.tensor_parallel > 1 && !std::exchange(warned_of_nccl_, true)) {
    LogWarning(
        "sums through nccl",
        {{"reason", one_host ? loss_ : "ranks are on several hosts"},
         {"cost",
          "each of two sums a layer takes 6 to 10 us longer than through peer memory on one host "
          "(up to 64 rows; 20 to 33 us at 512), and more where a network lies between"}});
  }
  return CollectivesKind::kNccl;
}

// `why` an epoch could not be formed with kind_. Shared memory fails for good where ranks of one
// host have not one /dev/shm, which looks like any other failure; peer memory says so.
void ReplicaLeader::OnKindFailed(const absl::Status& why) {
  const bool for_good = absl::IsFailedPrecondition(why);
  if (!for_good && kind_ != CollectivesKind::kSharedMemory) return;
  if (std::exchange(kind_failed_epoch_, epoch_) == epoch_) return;  // the word of another rank
  if (++kind_failures_ < kBelievedKindFailures) return;
  const bool has_other = options_.collectives == "auto" && !avoid_host_kind_;
  if (kind_ == CollectivesKind::kSharedMemory || kind_ == CollectivesKind::kPeer) {
    if (has_other) {
      avoid_host_kind_ = true;
      kind_failures_ = failures_ = 0;
      return;
    }
  }
  if (for_good) hopeless_ = why;
}

// An epoch could not be formed. Where that is so again and again and no rank is lost meanwhile, it
// will not change by itself, and whoever started the ranks must know. Ranks that have been a group
// before get as long as one attempt may take: requests wait for them.
void ReplicaLeader::CountFailure() {
  // A rank that was lost may have a successor already.
  if (!AllJoined() || Instances() != forming_ranks_) {
    failures_ = 0;
    return;
  }
  const absl::Time now = absl::Now();
  if (failures_++ == 0) first_failure_ = now;
  if (failures_ < kHopelessFailures) return;
  if (stood_ > 0 && now - first_failure_ < options_.form_timeout) return;
  hopeless_ = absl::FailedPreconditionError(absl::StrCat(
      "the ranks could not form a group ", failures_, " times in a row, lastly because ", loss_));
  changed_.notify_all();
}

std::vector<uint64_t> ReplicaLeader::Instances() const {
  std::vector<uint64_t> instances;
  for (const Follower& follower : followers_) instances.push_back(follower.instance);
  return instances;
}

GroupSpec ReplicaLeader::MakeSpec() const {
  GroupSpec spec;
  spec.kind = kind_;
  spec.world_size = options_.tensor_parallel;
  spec.gpu = options_.gpu;
  spec.operation_timeout = 2 * options_.wedge_timeout;  // JudgeProgress comes first
  spec.shared_memory_name = absl::StrFormat("/caravan-%016x-%d", options_.instance, epoch_);
  // Where a follower is on another host, the address that it reaches this one at.
  spec.host = "127.0.0.1";
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    if (followers_[rank].hello.host() == host_) continue;
    spec.host = LocalAddressToward(HostOfPeer(followers_[rank].stream->peer()));
  }
  return spec;
}

int32_t ReplicaLeader::LeastBlocks() const {
  int32_t least = runner_->limits().num_blocks;
  for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
    least = std::min(least, static_cast<int32_t>(followers_[rank].hello.num_blocks()));
  }
  return std::max(1, least - static_cast<int32_t>(least * options_.spare_blocks));
}

}  // namespace caravan
