// Rank 0's side of replica control: collects the followers, forms epochs of them, sends them the
// steps, and notices when one is lost.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "caravan/v1/replica.grpc.pb.h"
#include "worker/replica/collectives_builder.h"
#include "worker/replica/heartbeat.h"
#include "worker/replica/join_stream.h"
#include "worker/replica/joined_follower.h"
#include "worker/replica/leader_options.h"
#include "worker/replica/rank_runner.h"

namespace caravan {

// Threads of its own form epochs and watch over the ranks; an epoch stands until a rank is lost,
// and the next is formed as soon as all are there again. A replica of one rank forms its epoch
// alone.
class ReplicaLeader final : public v1::Replica::CallbackService, private JoinStream::Handler {
 public:
  explicit ReplicaLeader(LeaderOptions options);
  ~ReplicaLeader() override;  // Stop

  // Once this rank has loaded: from now on followers are judged and epochs formed. `runner` tells
  // limits and progress, and outlives Stop.
  void Begin(const std::string& fingerprint, const RankRunner* runner);

  // Has the followers load; Begin follows. AwaitEpoch gives the error of one that can't.
  void Load();
  // Ends the epoch, has the followers release their model, and forgets the runner of Begin.
  void Unload();
  // Until all that have joined have done so: DEADLINE_EXCEEDED with one that has not.
  absl::Status AwaitUnloaded(absl::Duration timeout);

  // The epoch that stands, if its number is above `after`; waits for it for at most `timeout`, else
  // DEADLINE_EXCEEDED with what is missing. FAILED_PRECONDITION where none can be formed: these
  // ranks have no collectives in common, or find no way to each other time and again.
  absl::StatusOr<Epoch> AwaitEpoch(uint64_t after, absl::Duration timeout);

  // Sends a step of `epoch` to all followers without waiting. UNAVAILABLE where it stands no more.
  absl::Status SendStep(uint64_t epoch, const StepPlan& plan);

  // OK while `epoch` stands, else UNAVAILABLE with the reason why it does not.
  absl::Status StatusOf(uint64_t epoch) const;
  // This rank found out by itself that `epoch` has fallen.
  void GiveUp(uint64_t epoch, const std::string& why);

  uint64_t epoch() const;         // that stands, or stood last
  absl::Status hopeless() const;  // what AwaitEpoch says where none can be formed, else OK
  // "loading" before they joined, "ready", "unloaded", "lost".
  std::vector<v1::WorkerRank> followers() const;

  // Tells the followers to leave, with the code of `reason` (OK: the replica has drained).
  void Dismiss(const absl::Status& reason);
  void Stop();

  grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage>* Join(
      grpc::CallbackServerContext* context) override;

 private:
  using Follower = JoinedFollower;

  void OnFollowerMessage(const std::shared_ptr<JoinStream>& stream,
                         const v1::FollowerMessage& message) override;
  void OnStreamClosed(const std::shared_ptr<JoinStream>& stream) override;

  // All of them REQUIRE mutex_.
  void OnHello(const std::shared_ptr<JoinStream>& stream, const v1::FollowerMessage& message);
  void OnFormed(Follower& follower, const v1::FollowerMessage& message);
  void OnFailed(int rank, const v1::FollowerFailed& failed);
  void OnUnloaded(int rank, const v1::FollowerUnloaded& unloaded);
  void TellWhatToHold(Follower& follower);
  absl::Status CheckHello(const v1::FollowerHello& hello) const;
  void Refuse(int rank, const absl::Status& why);
  int RankOf(const JoinStream* stream) const;  // 0: none's
  bool AllJoined() const;
  std::string Missing() const;
  void LoseEpoch(const std::string& why);
  v1::LeaderMessage NewMessage() const;
  void SendToAll(const v1::LeaderMessage& message);
  CollectivesKind ChooseKind();
  void OnKindFailed(const absl::Status& why);
  void CountFailure();
  std::vector<uint64_t> Instances() const;
  GroupSpec MakeSpec() const;
  int32_t LeastBlocks() const;

  void FormEpochs();                                       // one thread
  void Watch();                                            // the other
  void JudgeSilence(absl::Time now, absl::Duration late);  // REQUIRE mutex_, these
  void JudgeProgress(absl::Time now, absl::Duration late);
  absl::Status Form(std::unique_lock<std::mutex>& lock);
  absl::StatusOr<std::shared_ptr<Collectives>> Connect(std::unique_lock<std::mutex>& lock);
  absl::Status WaitWhileForming(std::unique_lock<std::mutex>& lock, bool Follower::*flag,
                                const char* what);

  const LeaderOptions options_;
  const std::string host_;
  const std::string boot_id_;

  mutable std::mutex mutex_;  // guards all below; taken before a stream's own
  std::condition_variable changed_;
  std::string fingerprint_;
  const RankRunner* runner_ = nullptr;  // null before Begin
  std::vector<Follower> followers_;     // by rank; [0] is unused
  uint64_t epoch_ = 0;                  // that forms, or stands
  uint64_t stood_ = 0;                  // the last one that stood
  bool forming_ = false;
  bool stands_ = false;
  WantedModel wanted_;                   // that the followers hold
  bool stood_since_ = false;             // an epoch, since this model was loaded
  int32_t num_blocks_ = 0;               // agreed; 0 before the first epoch
  bool avoid_host_kind_ = false;         // that of one host's memory failed
  uint64_t kind_failed_epoch_ = 0;       // last one that kind_ could not form ...
  int kind_failures_ = 0;                // ... and how many, since one stood
  int failures_ = 0;                     // to form an epoch, in a row, of ...
  std::vector<uint64_t> forming_ranks_;  // instances, by rank; [0] is unused
  absl::Time first_failure_;             // of these
  absl::Duration ending_time_;           // of the group before
  bool warned_of_nccl_ = false;
  absl::Status hopeless_;  // why no epoch can be formed
  CollectivesKind kind_ = CollectivesKind::kSharedMemory;
  std::string loss_;                     // why the last epoch fell
  StandstillClock own_standstill_;       // over epochs
  StandstillClock standstill_in_epoch_;  // this rank's; as Follower::standstill
  std::shared_ptr<CollectivesBuilder> builder_;
  std::shared_ptr<Collectives> ranks_;
  bool stopping_ = false;
  std::thread former_, watcher_;
};

}  // namespace caravan
