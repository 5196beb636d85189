// A rank above 0 in its replica: holds the Join stream to the leader and runs the steps that come.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "caravan/v1/replica.grpc.pb.h"
#include "worker/replica/collectives_builder.h"
#include "worker/replica/heartbeat.h"
#include "worker/replica/rank_runner.h"

namespace caravan {

// What a rank holds.
struct LoadedRank {
  RankRunner* runner = nullptr;  // null: nothing
  std::string fingerprint;       // of the model
};

struct FollowerOptions {
  uint64_t instance = 0;  // this process life
  int rank = 1;
  int tensor_parallel = 2;
  int gpu = -1;  // CUDA device of this rank; -1: it computes on the CPU
  std::string leader_address;
  std::string fingerprint;  // of the runner's model
  std::string build;
  absl::Duration rank_timeout = absl::Seconds(1);  // silence after which the leader is lost
  // Called once where this rank stands still for 2 · wedge_timeout, though the leader gives an
  // epoch up after one: nothing but the end of the process helps. Must not block for long, nor call
  // back.
  absl::Duration wedge_timeout = absl::Seconds(120);
  std::function<void(const std::string& why)> on_wedged;
  std::function<uint64_t()> memory_bytes;  // resident, for the heartbeats
  std::string device_name;                 // as WorkerRank says it
  uint64_t device_total_bytes = 0;
  std::function<uint64_t()> device_memory_bytes;  // in use, for the heartbeats
  // When the leader wants the model loaded, and released, on the thread that runs steps. The runner
  // lives until `unload` is called.
  std::function<absl::StatusOr<LoadedRank>()> load;
  std::function<void()> unload;
  // Run is going to return, once what its threads are in (loading, at worst) is over. Any thread;
  // must not block.
  std::function<void()> on_end;
};

// Dials the leader again for ever, whatever breaks; the weights stay loaded, but for the leader's
// word. Run's thread reads, one thread runs steps, one sends heartbeats.
class ReplicaFollower {
 public:
  // `runner` outlives this; null: it joins without a model.
  ReplicaFollower(FollowerOptions options, RankRunner* runner);
  ~ReplicaFollower();

  // Until Stop (OK), until the leader says that the replica has drained (OK), refuses this rank
  // (its reason), or the own runner fails beyond help (its error).
  absl::Status Run();

  // Any thread. Asks the leader to drain the replica; Run returns when that is done, or at once
  // where there is no leader.
  void Drain();
  void Stop();

  uint64_t epoch() const { return epoch_; }
  // Once Run has returned, or is going to.
  absl::Status result() const;

 private:
  using Stream = grpc::ClientReaderWriter<v1::FollowerMessage, v1::LeaderMessage>;

  // A stream's life, on Run's thread. True where the leader said anything; `end` is its status.
  bool ServeStream(grpc::Status* end);
  void Handle(const v1::LeaderMessage& message);
  bool Send(uint64_t epoch, v1::FollowerMessage message);
  v1::FollowerMessage HelloMessage() const;
  // `next` is configured instead.
  void AbortEpoch(std::optional<uint64_t> next = std::nullopt);
  void AbortEpochLocked();
  void Finish(const absl::Status& status);
  bool finished() const;

  // The thread that runs steps.
  void RunSteps();
  void Execute(const v1::LeaderMessage& message);
  void OnConfigure(const v1::LeaderMessage& message);
  void DropOldGroup();
  void WantModel(bool loaded);
  void SwitchModel(bool loaded);
  absl::Status LoadModel();
  RankProgress OwnProgress() const;
  void OnRendezvous(const v1::LeaderMessage& message);
  void OnStep(const v1::LeaderMessage& message);
  void CollectStep();
  void AwaitEpoch();
  void ReportUnformed(uint64_t epoch, const absl::Status& status);
  void ReportFailure(uint64_t epoch, const absl::Status& status);

  void SendHeartbeats();
  void WatchLeader();
  v1::FollowerMessage ProgressMessage() const;
  void JudgeGroup();
  void JudgeOwnStep(absl::Time now, absl::Duration late);

  const FollowerOptions options_;
  const std::unique_ptr<v1::Replica::Stub> stub_;
  std::atomic<uint64_t> epoch_{0};     // last configured; on every message
  std::atomic<bool> in_epoch_{false};  // written with mutex_ held
  uint64_t runner_epoch_ = 0;          // the step thread's: whose group the runner has
  int in_flight_ = 0;                  // the step thread's: submitted, not collected
  bool preparing_ = false;      // the step thread's: the runner is not ready for its epoch yet
  StandstillClock standstill_;  // the heartbeat thread's
  bool wedged_ = false;         // the heartbeat thread's

  std::mutex write_mutex_;  // guards writing to stream_
  std::shared_ptr<Stream> stream_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::shared_ptr<grpc::ClientContext> context_;  // of the present stream
  absl::Time last_heard_;
  uint64_t leader_ = 0;  // instance, once it has spoken on the present stream
  // Changed by the step thread alone, which need not lock to read it.
  LoadedRank loaded_;
  std::optional<bool> wanted_model_;  // loaded or not, as the leader said last; none: as it is
  std::deque<v1::LeaderMessage> commands_;
  std::shared_ptr<CollectivesBuilder> builder_;
  std::shared_ptr<Collectives> ranks_;
  bool draining_ = false;
  bool finished_ = false;
  absl::Status result_;
};

}  // namespace caravan
