// A replica on loopback inside one process: a leader, followers, and one that speaks by hand.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "common/server.h"
#include "tests/worker/replica/fake_rank_runner.h"
#include "worker/replica/follower.h"
#include "worker/replica/leader.h"
#include "worker/replica/local_host.h"
#include "worker/replica/replica_runner.h"

namespace caravan {

inline constexpr char kFingerprint[] = "f00d";
inline constexpr char kBuild[] = "test";

class TestLeader {
 public:
  explicit TestLeader(LeaderOptions options, const std::string& address = "127.0.0.1:0")
      : local(FakeRankRunner::DefaultLimits()) {
    if (options.instance == 0) options.instance = RandomId();
    options.build = kBuild;
    leader = std::make_unique<ReplicaLeader>(options);
    GrpcServerOptions server_options;
    server_options.listen_address = address;
    auto started = GrpcServer::Start(server_options, {leader.get()});
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
    leader->Begin(kFingerprint, &local);
    runner = std::make_unique<ReplicaRunner>(leader.get(), &local, [this] { ++epochs; });
  }
  ~TestLeader() {
    leader->Stop();
    server->Shutdown(absl::Now());
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(server->port()); }

  // Runs a step; the token that it drew.
  absl::StatusOr<int32_t> Step(uint64_t step) {
    StepPlan plan;
    plan.step = step;
    SlotWork& work = plan.work.emplace_back();
    work.slot = 1;
    work.num_tokens = 1;
    work.sample = true;
    RETURN_IF_ERROR(runner->Submit(plan));
    ASSIGN_OR_RETURN(const StepResult result, runner->Collect());
    return result.slots.at(0).tokens.at(0).token_id;
  }

  FakeRankRunner local;
  std::atomic<int> epochs{0};
  std::unique_ptr<ReplicaLeader> leader;
  std::unique_ptr<GrpcServer> server;
  std::unique_ptr<ReplicaRunner> runner;
};

inline FollowerOptions OptionsOfFollower(const std::string& address, int rank, int world_size) {
  FollowerOptions options;
  options.instance = RandomId();
  options.rank = rank;
  options.tensor_parallel = world_size;
  options.leader_address = address;
  options.fingerprint = kFingerprint;
  options.build = kBuild;
  return options;
}

class TestFollower {
 public:
  explicit TestFollower(const FollowerOptions& options,
                        const RunnerLimits& limits = FakeRankRunner::DefaultLimits())
      : local(limits), follower(options, &local) {
    thread_ = std::thread([this] { status_ = follower.Run(); });
  }
  TestFollower(const std::string& address, int rank, int world_size)
      : TestFollower(OptionsOfFollower(address, rank, world_size)) {}
  ~TestFollower() {
    follower.Stop();
    Join().IgnoreError();
  }

  // Waits for Run to return.
  absl::Status Join() {
    if (thread_.joinable()) thread_.join();
    return status_;
  }

  FakeRankRunner local;
  ReplicaFollower follower;

 private:
  std::thread thread_;
  absl::Status status_;
};

// A follower that says what a test tells it to.
class ScriptedFollower {
 public:
  ScriptedFollower(const std::string& address, uint64_t instance)
      : stub_(v1::Replica::NewStub(MakeChannel(address))), instance_(instance) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    stream_ = stub_->Join(&context_);
  }
  ~ScriptedFollower() { Leave(); }

  void Leave() {
    if (stream_ == nullptr) return;
    context_.TryCancel();
    stream_->Finish();
    stream_ = nullptr;
  }

  // From another host, or from this one.
  void SayHello(int rank, int world_size, bool neighbour = false, const char* device = "cpu") {
    v1::FollowerMessage message;
    v1::FollowerHello* hello = message.mutable_hello();
    hello->mutable_rank()->set_tensor(static_cast<uint32_t>(rank));
    hello->set_tensor_parallel(static_cast<uint32_t>(world_size));
    hello->set_fingerprint(kFingerprint);
    hello->set_build(kBuild);
    hello->set_host(neighbour ? LocalHostName() : "elsewhere");
    if (neighbour) hello->set_boot_id(LocalBootId());
    hello->set_device(device);
    hello->set_num_blocks(50);
    hello->set_limits(DescribeLimits(FakeRankRunner::DefaultLimits()));
    Say(0, std::move(message));
  }
  void Say(uint64_t epoch, v1::FollowerMessage message) {
    message.set_instance(instance_);
    message.set_epoch(epoch);
    stream_->Write(message);
  }
  void SayRendezvous(uint64_t epoch, const std::string& address) {
    v1::FollowerMessage message;
    message.mutable_rendezvous()->set_address(address);
    Say(epoch, std::move(message));
  }
  void SayFailed(uint64_t epoch, const std::string& why,
                 absl::StatusCode code = absl::StatusCode::kUnavailable) {
    v1::FollowerMessage message;
    message.mutable_failed()->set_code(static_cast<int>(code));
    message.mutable_failed()->set_message(why);
    Say(epoch, std::move(message));
  }

  // The next message but heartbeats; one without content where the stream has ended.
  v1::LeaderMessage Hear() {
    v1::LeaderMessage message;
    while (stream_->Read(&message)) {
      if (!message.has_heartbeat()) return message;
      v1::FollowerMessage answer;
      answer.mutable_progress();
      if (answers_heartbeats) Say(message.epoch(), std::move(answer));
    }
    return {};
  }

  bool answers_heartbeats = true;
  void set_instance(uint64_t instance) { instance_ = instance; }

 private:
  std::unique_ptr<v1::Replica::Stub> stub_;
  uint64_t instance_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::FollowerMessage, v1::LeaderMessage>> stream_;
};

}  // namespace caravan
