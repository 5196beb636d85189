// A rank above 0 as a process: loads, follows its leader, leaves when the replica has drained.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

#include "common/log.h"
#include "common/status.h"
#include "worker/process.h"
#include "worker/replica/follower.h"
#include "worker/replica/local_host.h"

namespace caravan {
namespace {

constexpr absl::Duration kDrainSlack = absl::Seconds(5);  // besides the leader's drain

class FollowerProcess {
 public:
  FollowerProcess(const WorkerConfig& config, ShutdownSignal* signal)
      : context_(config, signal),
        service_(
            ServiceOptions(),
            {[this] { return Epoch(); }, [this] { return Ranks(); }, [this] { return Progress(); }},
            &context_.metrics) {}

  int Run() {
    if (const absl::Status status = server_.Start(config(), context_.registry, {&service_});
        !status.ok()) {
      return Report(status);
    }
    absl::Status result;
    std::thread rank([&] {
      result = Serve();
      ended_ = true;
      context_.signal->Trigger();
    });
    const int signal = context_.signal->Wait();
    if (!ended_) Leave(signal);
    rank.join();
    return Report(result);
  }

 private:
  const WorkerConfig& config() const { return context_.config; }

  WorkerService::Options ServiceOptions() {
    WorkerService::Options options;
    options.instance = context_.instance;
    options.refusal =
        absl::StrCat("this is rank ", config().rank, " of a replica; requests go to rank 0 at ",
                     config().leader_address);
    return options;
  }

  absl::Status Serve() {
    ASSIGN_OR_RETURN(device_, WorkerDevice::Open(config()));
    ASSIGN_OR_RETURN(local_, LoadRunner(config(), *device_, &service_));
    service_.SetState(WorkerState::kReady);
    FollowerOptions options;
    options.instance = context_.instance;
    options.rank = config().rank;
    options.tensor_parallel = config().tensor_parallel;
    options.leader_address = config().leader_address;
    options.fingerprint = local_->model().fingerprint();
    options.build = BuildVersion(config());
    options.rank_timeout = absl::Milliseconds(config().rank_timeout_ms);
    options.wedge_timeout = absl::Milliseconds(config().wedge_timeout_ms);
    options.on_wedged = EndWedged;
    options.memory_bytes = ResidentBytes;
    options.gpu = config().device == "cuda" ? config().gpu : -1;
    options.device_name = device_->use().name;
    options.device_total_bytes = static_cast<uint64_t>(device_->use().total_bytes);
    options.device_memory_bytes = [this] {
      return static_cast<uint64_t>(device_->use().used_bytes);
    };
    {
      const std::lock_guard lock(mutex_);
      follower_ = std::make_shared<ReplicaFollower>(options, local_.get());
    }
    server_.SetServing(true);
    absl::Status status = follower_->Run();
    server_.SetServing(false);
    return status;
  }

  // The leader drains the replica; it tells this rank to leave when that is done.
  void Leave(int signal) {
    LogInfo("draining", {{"signal", signal}});
    context_.signal->ExitOnNext();
    const std::shared_ptr<ReplicaFollower> follower = Follower();
    if (follower == nullptr) {  // weights need not load to their end
      LogInfo("stopped", {{"state", "loading"}});
      std::_Exit(0);
    }
    follower->Drain();
    const absl::Time deadline =
        absl::Now() + absl::Milliseconds(config().drain_timeout_ms + config().lameduck_ms) +
        kDrainSlack;
    while (!ended_ && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(20));
    follower->Stop();
  }

  int Report(const absl::Status& status) {
    service_.Stop();
    if (status.ok()) {
      LogInfo("stopped");
    } else {
      LogError("failed", {{"status", ToString(status)}});
    }
    return status.ok() ? 0 : 1;
  }

  std::shared_ptr<ReplicaFollower> Follower() {
    const std::lock_guard lock(mutex_);
    return follower_;
  }

  uint64_t Epoch() {
    const std::shared_ptr<ReplicaFollower> follower = Follower();
    return follower == nullptr ? 0 : follower->epoch();
  }

  uint64_t Progress() { return Follower() != nullptr ? NumberOf(local_->progress()) : 0; }

  std::vector<v1::WorkerRank> Ranks() {
    const std::shared_ptr<ReplicaFollower> follower = Follower();
    v1::WorkerRank self;
    self.set_rank(static_cast<uint32_t>(config().rank));
    self.set_instance(context_.instance);
    self.set_host(LocalHostName());
    self.set_pid(static_cast<uint32_t>(getpid()));
    self.set_state(follower == nullptr ? "loading" : "ready");
    if (follower != nullptr) self.set_step(local_->progress().steps_done);
    self.set_memory_bytes(ResidentBytes());
    if (follower != nullptr) DescribeDevice(*device_, &self);
    return {self};
  }

  WorkerContext context_;
  std::atomic<bool> ended_{false};
  std::unique_ptr<WorkerDevice> device_;
  std::unique_ptr<LlamaRankRunner> local_;
  std::mutex mutex_;
  std::shared_ptr<ReplicaFollower> follower_;  // once the weights are loaded
  WorkerService service_;
  WorkerServer server_;
};

}  // namespace

int RunFollower(const WorkerConfig& config, ShutdownSignal* signal) {
  return FollowerProcess(config, signal).Run();
}

}  // namespace caravan
