// ReplicaFollower with and without a model.
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "worker/replica/follower.h"

namespace caravan {

// Run's thread. Whatever runs is over: no epoch goes on with another model.
void ReplicaFollower::WantModel(bool loaded) {
  AbortEpoch();
  {
    const std::lock_guard lock(mutex_);
    wanted_model_ = loaded;
  }
  changed_.notify_all();
}

// The step thread. The answer tells the leader how it is now, whether something had to be done or
// not.
void ReplicaFollower::SwitchModel(bool loaded) {
  absl::Status status;
  if (loaded && loaded_.runner == nullptr) status = LoadModel();
  if (!loaded && loaded_.runner != nullptr) {
    in_flight_ = 0;
    preparing_ = false;
    DropOldGroup();
    {
      const std::lock_guard lock(mutex_);
      loaded_ = LoadedRank();
    }
    if (options_.unload) options_.unload();
  }
  if (loaded_.runner != nullptr) {
    Send(0, HelloMessage());
    return;
  }
  v1::FollowerMessage message;
  message.mutable_unloaded()->set_code(static_cast<int32_t>(status.code()));
  message.mutable_unloaded()->set_message(std::string(status.message()));
  Send(0, std::move(message));
}

absl::Status ReplicaFollower::LoadModel() {
  if (!options_.load) return absl::UnimplementedError("this rank can't load a model");
  ASSIGN_OR_RETURN(LoadedRank loaded, options_.load());
  const std::lock_guard lock(mutex_);
  loaded_ = std::move(loaded);
  return absl::OkStatus();
}

RankProgress ReplicaFollower::OwnProgress() const {
  const std::lock_guard lock(mutex_);
  return loaded_.runner == nullptr ? RankProgress() : loaded_.runner->progress();
}

}  // namespace caravan
