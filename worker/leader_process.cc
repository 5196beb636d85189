// Rank 0 as a process: loads, leads its replica, serves gateways, drains.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "common/log.h"
#include "common/status.h"
#include "worker/model_control.h"
#include "worker/process.h"
#include "worker/replica/leader.h"
#include "worker/replica/local_host.h"
#include "worker/replica/replica_runner.h"

namespace caravan {
namespace {

constexpr absl::Duration kLastMessages = absl::Seconds(2);  // for gateways to read the end
constexpr absl::Duration kGatewayTimeout = absl::Seconds(1);
constexpr absl::Duration kRecoverSlice = absl::Milliseconds(100);
constexpr absl::Duration kDrainSlice = absl::Milliseconds(50);
constexpr absl::Duration kUnloadTimeout = absl::Seconds(60);  // for followers to release memory
constexpr double kSpareBlocks = 0.01;
constexpr absl::Duration kFirstLog = absl::Seconds(2);
constexpr absl::Duration kLogInterval = absl::Seconds(30);

class LeaderProcess {
 public:
  LeaderProcess(const WorkerConfig& config, ShutdownSignal* signal)
      : context_(config, signal),
        control_({[this] { return LoadModel(); }, [this] { return UnloadModel(); }}),
        leader_(OptionsOfLeader()),
        service_(ServiceOptions(),
                 {[this] { return leader_.epoch(); }, [this] { return Ranks(); },
                  [this] { return Progress(); }},
                 &context_.metrics) {}

  int Run() {
    if (const absl::Status status =
            server_.Start(config(), context_.registry, {&service_, &leader_});
        !status.ok()) {
      return Fail(status);
    }
    std::thread device([this] { OpenDevice(); });
    const int signal = context_.signal->Wait();
    {
      const std::lock_guard lock(mutex_);
      unload_limit_ = absl::Now() + absl::Milliseconds(config().drain_timeout_ms);
    }
    // Nothing is in flight while a model loads, and weights need not load to their end.
    if ((control_.Close() || !opened_) && failure().ok()) {
      LogInfo("stopped", {{"signal", signal}, {"state", "starting"}});
      leader_.Dismiss(absl::OkStatus());
      server_.Shutdown(absl::Now() + kLastMessages);
      std::_Exit(0);
    }
    device.join();
    control_.Join();
    if (!failure().ok()) return Fail(failure());
    Drain(signal);
    return failure().ok() ? 0 : Fail(failure());
  }

 private:
  const WorkerConfig& config() const { return context_.config; }

  WorkerService::Options ServiceOptions() {
    WorkerService::Options options;
    options.instance = context_.instance;
    options.max_session_tokens = context_.config.max_session_tokens;
    options.on_ready = [this](bool ready) { server_.SetServing(ready); };
    options.on_fatal = [this](const absl::Status& why) { StopWith(why); };
    options.control = [this](bool load, uint64_t number, ModelControl::Done done) {
      control_.Submit(load, number, std::move(done));
    };
    options.model_status = [this] { return control_.status(); };
    return options;
  }

  LeaderOptions OptionsOfLeader() {
    LeaderOptions options;
    options.instance = context_.instance;
    options.tensor_parallel = config().tensor_parallel;
    options.gpu = config().device == "cuda" ? config().gpu : -1;
    options.collectives = config().collectives;
    const bool blocks_fill_gpu = config().device == "cuda" && config().kv_cache_bytes == 0;
    if (blocks_fill_gpu && config().tensor_parallel > 1) options.spare_blocks = kSpareBlocks;
    options.build = BuildVersion(config());
    options.load_at_start = config().load_at_start;
    options.rank_timeout = absl::Milliseconds(config().rank_timeout_ms);
    options.wedge_timeout = absl::Milliseconds(config().wedge_timeout_ms);
    options.on_wedged = EndWedged;
    options.on_drain = [this] { context_.signal->Trigger(); };
    options.on_loss = [this] {
      if (Engine* engine = live_engine_) engine->Wake();
    };
    return options;
  }

  void OpenDevice() {
    auto device = WorkerDevice::Open(config());
    if (!device.ok()) return StopWith(device.status());
    device_ = *std::move(device);
    if (!config().load_at_start) service_.Withdraw(NameAlone());
    opened_ = true;
    control_.Start(config().load_at_start, [this](const absl::Status& status) {
      // A start that an unload or the process's end overtook is none that failed.
      if (!status.ok() && !control_.superseded()) StopWith(status);
    });
  }

  // The control's thread.
  absl::Status LoadModel() {
    leader_.Load();
    absl::Status status = StartModel();
    // A process whose start fails ends.
    const bool ends = std::exchange(is_start_, false) && config().load_at_start;
    if (!status.ok() && (!ends || control_.superseded())) ReleaseModel();
    return status;
  }

  absl::Status StartModel() {
    ASSIGN_OR_RETURN(auto local, LoadRunner(config(), *device_, &service_));
    {
      const std::lock_guard lock(mutex_);
      local_ = std::move(local);
    }
    service_.SetState(WorkerState::kForming);
    leader_.Begin(local_->model().fingerprint(), local_.get());
    runner_ =
        std::make_unique<ReplicaRunner>(&leader_, local_.get(), [this] { service_.OnEpoch(); });
    RETURN_IF_ERROR(AwaitFirstEpoch());
    engine_ = std::make_shared<Engine>(
        EngineOptionsOf(), runner_.get(),
        [this](const std::vector<TokenEvent>& events) { service_.Deliver(events); });
    live_engine_ = engine_.get();
    engine_->Start();
    service_.Serve({engine_, ModelDescription()});
    return absl::OkStatus();
  }

  absl::Status UnloadModel() {
    service_.SetState(WorkerState::kUnloading);
    DrainForUnload();
    ReleaseModel();
    return leader_.AwaitUnloaded(kUnloadTimeout);
  }

  // What runs may take as long as it needs, but not while the replica can't go on, nor longer than
  // a stop of the process gives it.
  void DrainForUnload() {
    while (!engine_->Drain(kDrainSlice)) {
      const std::lock_guard lock(mutex_);
      if (engine_->Stats().recovering || absl::Now() > unload_limit_) return;
    }
  }

  // Whatever there is of it. Nobody else uses engine_ and runner_ once the service and the leader
  // have forgotten them.
  void ReleaseModel() {
    if (engine_ != nullptr) engine_->Stop();
    service_.Withdraw(NameAlone());
    live_engine_ = nullptr;
    leader_.Unload();
    engine_ = nullptr;
    runner_ = nullptr;
    std::unique_ptr<LlamaRankRunner> local;
    {
      const std::lock_guard lock(mutex_);
      local.swap(local_);
    }
    local = nullptr;  // not under the lock: it may take its time
    ReturnFreeMemory();
    LogInfo("unloaded", {{"model", config().model_name},
                         {"memory_bytes", ResidentBytes()},
                         {"device_memory_bytes", device_->use(absl::ZeroDuration()).used_bytes}});
  }

  absl::Status AwaitFirstEpoch() {
    absl::Time next_log = absl::Now() + kFirstLog;
    while (true) {
      absl::Status status = runner_->Recover(kRecoverSlice);
      if (!absl::IsDeadlineExceeded(status)) return status;
      if (control_.superseded()) return absl::AbortedError("the model is not wanted any more");
      if (absl::Now() < next_log) continue;
      LogInfo("waiting", {{"reason", std::string(status.message())}});
      next_log = absl::Now() + kLogInterval;
    }
  }

  EngineOptions EngineOptionsOf() {
    EngineOptions options;
    options.max_batch_tokens = config().max_batch_tokens;
    options.max_prefill_chunk_tokens = config().max_prefill_chunk_tokens;
    options.max_running_sequences = config().max_running_sequences;
    options.max_waiting_requests = config().max_waiting_requests;
    options.step_time_target_ms = config().step_time_target_ms;
    options.enable_prefix_cache = config().enable_prefix_cache;
    options.pipelined = config().pipelined;
    options.pipeline_depth = config().pipeline_depth;
    options.check_invariants = config().check_invariants;
    options.on_step = [this](const StepTiming& timing) { context_.metrics.Observe(timing); };
    return options;
  }

  v1::WorkerModel ModelDescription() const {
    const LlamaModel& model = local_->model();
    const RunnerLimits& limits = runner_->limits();
    v1::WorkerModel description;
    description.set_name(config().model_name);
    description.set_architecture("LlamaForCausalLM");
    description.set_dtype(NameOf(model.dtype()));
    description.set_device(config().device);
    description.set_vocabulary_size(static_cast<uint32_t>(limits.vocab_size));
    description.set_max_context_tokens(static_cast<uint32_t>(limits.max_context_tokens));
    description.set_tensor_parallel(static_cast<uint32_t>(config().tensor_parallel));
    description.set_block_tokens(static_cast<uint32_t>(limits.block_tokens));
    description.set_total_blocks(static_cast<uint32_t>(limits.num_blocks));
    description.set_fingerprint(model.fingerprint());
    for (const int32_t id : model.config().eos_token_ids) description.add_eos_token_ids(id);
    description.set_bos_token_id(model.config().bos_token_id.value_or(-1));
    description.set_max_prompt_tokens(static_cast<uint32_t>(std::min<int64_t>(
        limits.max_context_tokens - 1, int64_t{limits.num_blocks} * limits.block_tokens)));
    return description;
  }

  // What is known of a model that was not loaded.
  v1::WorkerModel NameAlone() const {
    v1::WorkerModel description;
    description.set_name(config().model_name);
    description.set_device(config().device);
    description.set_tensor_parallel(static_cast<uint32_t>(config().tensor_parallel));
    return description;
  }

  uint64_t Progress() {
    const std::lock_guard lock(mutex_);
    return local_ != nullptr ? NumberOf(local_->progress()) : 0;
  }

  std::vector<v1::WorkerRank> Ranks() {
    std::vector<v1::WorkerRank> ranks = leader_.followers();
    v1::WorkerRank& self = *ranks.insert(ranks.begin(), v1::WorkerRank());
    self.set_instance(context_.instance);
    self.set_host(LocalHostName());
    self.set_pid(static_cast<uint32_t>(getpid()));
    self.set_memory_bytes(ResidentBytes());
    if (opened_) DescribeDevice(*device_, &self);
    const bool unloaded = control_.status().state() == v1::WorkerModelStatus::UNLOADED;
    const std::lock_guard lock(mutex_);
    self.set_state(local_ != nullptr ? "ready" : unloaded ? "unloaded" : "loading");
    if (local_ != nullptr) self.set_step(local_->progress().steps_done);
    return ranks;
  }

  void Drain(int signal) {
    LogInfo("draining", {{"signal", signal}, {"drain_timeout_ms", config().drain_timeout_ms}});
    context_.signal->ExitOnNext();
    const absl::Duration timeout = absl::Milliseconds(config().drain_timeout_ms);
    server_.SetServing(false);
    service_.GoAway("the worker is stopped", timeout);
    if (service_.num_sessions() > 0) absl::SleepFor(absl::Milliseconds(config().lameduck_ms));
    const bool drained = engine_ == nullptr || engine_->Drain(timeout);
    if (engine_ != nullptr) engine_->Stop();
    // A gateway on a busy host may lose what it has not read when its stream ends, even well. One
    // that is stopped, or of an older build, does not say when it has.
    if (!service_.AwaitGateways(kGatewayTimeout)) LogWarning("a gateway may not have read all", {});
    service_.Stop();
    leader_.Dismiss(absl::OkStatus());
    server_.Shutdown(absl::Now() + kLastMessages);
    leader_.Stop();
    LogInfo("stopped", {{"drained", drained}});
  }

  int Fail(const absl::Status& status) {
    LogError("failed", {{"status", ToString(status)}});
    if (engine_ != nullptr) engine_->Stop();
    service_.Stop();
    const absl::Status hopeless = leader_.hopeless();
    if (absl::IsFailedPrecondition(hopeless)) {  // the others have nothing to wait for either
      leader_.Dismiss(hopeless);
      server_.Shutdown(absl::Now() + kLastMessages);
    }
    leader_.Stop();
    return 1;
  }

  // The first failure ends the process.
  void StopWith(const absl::Status& failure) {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_.ok()) return;
      failure_ = failure;
    }
    context_.signal->Trigger();
  }
  absl::Status failure() {
    const std::lock_guard lock(mutex_);
    return failure_;
  }

  WorkerContext context_;
  std::mutex mutex_;
  absl::Status failure_;
  absl::Time unload_limit_ = absl::InfiniteFuture();  // of its drain; guarded by mutex_
  bool is_start_ = true;                              // the control's: no load has ended yet
  std::atomic<bool> opened_{false};                   // device_ is there
  std::unique_ptr<WorkerDevice> device_;
  // The control's thread changes these three, local_ under mutex_.
  std::unique_ptr<LlamaRankRunner> local_;
  ModelControl control_;
  ReplicaLeader leader_;
  std::unique_ptr<ReplicaRunner> runner_;
  std::shared_ptr<Engine> engine_;
  std::atomic<Engine*> live_engine_{nullptr};  // engine_ for other threads
  WorkerService service_;
  WorkerServer server_;
};

}  // namespace

int RunLeader(const WorkerConfig& config, ShutdownSignal* signal) {
  return LeaderProcess(config, signal).Run();
}

}  // namespace caravan
