// ReplicaLeader with and without a model.
#include <algorithm>
#include <utility>

#include "common/log.h"
#include "worker/replica/leader.h"

namespace caravan {

void ReplicaLeader::Load() {
  const std::lock_guard lock(mutex_);
  wanted_ = WantedModel::kLoaded;
  hopeless_ = absl::OkStatus();
  for (Follower& follower : followers_) TellWhatToHold(follower);
}

void ReplicaLeader::Unload() {
  // What they were in goes when the lock has been left: ending a group may take its time.
  std::shared_ptr<CollectivesBuilder> builder;
  std::shared_ptr<Collectives> ranks;
  const std::lock_guard lock(mutex_);
  LoseEpoch("the model is unloaded");
  builder.swap(builder_);
  ranks.swap(ranks_);
  wanted_ = WantedModel::kUnloaded;
  runner_ = nullptr;
  fingerprint_.clear();
  num_blocks_ = 0;
  stood_since_ = false;
  hopeless_ = absl::OkStatus();
  for (Follower& follower : followers_) TellWhatToHold(follower);
}

absl::Status ReplicaLeader::AwaitUnloaded(absl::Duration timeout) {
  const auto released = [](const Follower& f) { return f.stream == nullptr || !f.loaded; };
  std::unique_lock lock(mutex_);
  if (changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), [&] {
        return stopping_ || std::all_of(followers_.begin(), followers_.end(), released);
      })) {
    return absl::OkStatus();
  }
  const auto held = std::find_if_not(followers_.begin(), followers_.end(), released);
  return absl::DeadlineExceededError(absl::StrCat("rank ", held - followers_.begin(),
                                                  " has not released its model within ",
                                                  absl::ToInt64Seconds(timeout), " s"));
}

void ReplicaLeader::TellWhatToHold(Follower& follower) {
  if (follower.stream == nullptr || wanted_ == WantedModel::kAnything) return;
  if (follower.loaded == (wanted_ == WantedModel::kLoaded)) return;
  v1::LeaderMessage message = NewMessage();
  if (wanted_ == WantedModel::kLoaded) {
    message.mutable_load();
  } else {
    message.mutable_unload();
  }
  follower.stream->Send(std::move(message));
}

void ReplicaLeader::OnUnloaded(int rank, const v1::FollowerUnloaded& unloaded) {
  Follower& follower = followers_[rank];
  follower.loaded = false;
  if (wanted_ != WantedModel::kLoaded) return;
  // It was taken to hold one: what was sent to it for an epoch is lost on it.
  LoseEpoch(absl::StrCat("rank ", rank, " has no model"));
  const absl::Status why(static_cast<absl::StatusCode>(unloaded.code()),
                         absl::StrCat("rank ", rank, ": ", unloaded.message()));
  if (why.ok()) return TellWhatToHold(follower);  // it was told otherwise before
  LogError("rank can't load", {{"rank", rank}, {"reason", std::string(why.message())}});
  // Of a replica that serves, it is one rank's trouble: its next life may do better.
  if (stood_since_) return Refuse(rank, why);
  hopeless_ = why;
}

}  // namespace caravan
