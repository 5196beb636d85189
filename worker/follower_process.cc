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
    LoadedRank loaded;
    if (config().load_at_start) {
      ASSIGN_OR_RETURN(loaded, Load());
    } else {
      service_.SetState(WorkerState::kUnloaded);
    }
    const FollowerOptions options = OptionsOf(loaded.fingerprint);
    {
      const std::lock_guard lock(mutex_);
      follower_ = std::make_shared<ReplicaFollower>(options, loaded.runner);
    }
    absl::Status status = follower_->Run();
    server_.SetServing(false);
    return status;
  }

  absl::StatusOr<LoadedRank> Load() {
    loading_ = true;
    absl::StatusOr<std::unique_ptr<LlamaRankRunner>> local =
        LoadRunner(config(), *device_, &service_);
    loading_ = false;
    if (!local.ok()) {
      service_.SetState(WorkerState::kUnloaded);
      ReturnFreeMemory();
      return local.status();
    }
    const std::lock_guard lock(mutex_);
    local_ = *std::move(local);
    service_.SetState(WorkerState::kReady);
    server_.SetServing(true);
    return LoadedRank{local_.get(), local_->model().fingerprint()};
  }

  void Unload() {
    service_.SetState(WorkerState::kUnloaded);
    server_.SetServing(false);
    std::unique_ptr<LlamaRankRunner> local;
    {
      const std::lock_guard lock(mutex_);
      local.swap(local_);
    }
    if (device_->cuda() != nullptr) device_->cuda()->MakeCurrent();
    local = nullptr;  // not under the lock: it may take its time
    ReturnFreeMemory();
    LogInfo("unloaded", {{"memory_bytes", ResidentBytes()},
                         {"device_memory_bytes", device_->use(absl::ZeroDuration()).used_bytes}});
  }

  FollowerOptions OptionsOf(const std::string& fingerprint) {
    FollowerOptions options;
    options.instance = context_.instance;
    options.rank = config().rank;
    options.tensor_parallel = config().tensor_parallel;
    options.leader_address = config().leader_address;
    options.fingerprint = fingerprint;
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
    options.load = [this] { return Load(); };
    options.unload = [this] { Unload(); };
    options.on_end = [this] {
      if (loading_) context_.signal->Trigger();
    };
    return options;
  }

  // The leader drains the replica; it tells this rank to leave when that is done.
  void Leave(int signal) {
    LogInfo("draining", {{"signal", signal}});
    context_.signal->ExitOnNext();
    const std::shared_ptr<ReplicaFollower> follower = Follower();
    if (follower == nullptr || loading_) {  // weights need not load to their end
      const absl::Status result = follower == nullptr ? absl::OkStatus() : follower->result();
      LogInfo("stopped", {{"state", "loading"}, {"status", ToString(result)}});
      std::_Exit(result.ok() ? 0 : 1);
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

  uint64_t Progress() {
    const std::lock_guard lock(mutex_);
    return local_ != nullptr ? NumberOf(local_->progress()) : 0;
  }

  std::vector<v1::WorkerRank> Ranks() {
    v1::WorkerRank self;
    self.set_rank(static_cast<uint32_t>(config().rank));
    self.set_instance(context_.instance);
    self.set_host(LocalHostName());
    self.set_pid(static_cast<uint32_t>(getpid()));
    self.set_memory_bytes(ResidentBytes());
    const bool loading = loading_;
    const std::lock_guard lock(mutex_);
    if (follower_ != nullptr) DescribeDevice(*device_, &self);
    const char* empty = follower_ == nullptr || loading ? "loading" : "unloaded";
    self.set_state(local_ != nullptr ? "ready" : empty);
    if (local_ != nullptr) self.set_step(local_->progress().steps_done);
    return {self};
  }

  WorkerContext context_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> loading_{false};
  std::unique_ptr<WorkerDevice> device_;
  std::mutex mutex_;  // guards the next two
  std::unique_ptr<LlamaRankRunner> local_;
  std::shared_ptr<ReplicaFollower> follower_;  // once what is loaded at the start is there
  WorkerService service_;
  WorkerServer server_;
};

}  // namespace

int RunFollower(const WorkerConfig& config, ShutdownSignal* signal) {
  return FollowerProcess(config, signal).Run();
}

}  // namespace caravan
