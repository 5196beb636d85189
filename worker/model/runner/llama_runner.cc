#include "worker/model/runner/llama_runner.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>

#include "common/status.h"
#include "kernels/device/device_memory.h"
#include "worker/model/runner/device_executor.h"
#include "worker/model/runner/gpu_memory_plan.h"
#include "worker/model/runner/host_executor.h"

namespace caravan {
namespace {

constexpr int32_t kMaxSlots = 1 << 16;

absl::Status CheckOptions(const LlamaRunnerOptions& options, const LlamaModel& model) {
  const int32_t most_slots = std::min(kMaxSlots, model.max_logit_rows());
  if (options.max_slots < 1 || options.max_slots > most_slots) {
    return absl::InvalidArgumentError(absl::StrCat("--max_running_sequences is ", options.max_slots,
                                                   ", must be in [1, ", most_slots, "]"));
  }
  if (options.block_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--block_tokens is ", options.block_tokens, ", must be at least 1"));
  }
  if (options.max_steps_in_flight < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--pipeline_depth is ", options.max_steps_in_flight, ", must be at least 1"));
  }
  return absl::OkStatus();
}

// All but the number of blocks, which depends on the memory that is left.
RunnerLimits LimitsOf(const LlamaRunnerOptions& options, LlamaModel& model) {
  RunnerLimits limits;
  limits.block_tokens = options.block_tokens;
  limits.max_slots = options.max_slots;
  limits.max_batch_tokens = model.max_batch_tokens();
  limits.max_context_tokens = model.max_context_tokens();
  limits.vocab_size = model.config().vocab_size;
  limits.max_steps_in_flight = options.max_steps_in_flight;
  limits.max_shareable_prompt_tokens = model.rope().max_shareable_prompt_tokens();
  limits.dtype = NameOf(model.dtype());
  return limits;
}

absl::StatusOr<KvMemory> AllocateKv(const LlamaRunnerOptions& options, const LlamaModel& model) {
  KvMemoryOptions kv = {options.block_tokens, options.num_blocks, options.kv_cache_bytes,
                        model.dtype(), model.stream()};
  if (kv.num_blocks == 0 && kv.kv_cache_bytes == 0 && kv.stream.device() == Device::kCuda) {
    kv.stream.cuda().MakeCurrent();
    const int64_t left = KvBudget(QueryDeviceMemory(), options, model.layout().shard.world_size);
    const int64_t block = KvBlockBytes(model.config(), model.layout(), kv.block_tokens, kv.dtype);
    RETURN_IF_ERROR(CheckKvBudget(left, block, options));
    kv.kv_cache_bytes = std::min(left, options.max_blocks * block);
  }
  return KvMemory::Allocate(model.config(), model.layout(), kv);
}

absl::StatusOr<std::unique_ptr<StepExecutor>> MakeExecutor(const LlamaRunnerOptions& options,
                                                           LlamaModel* model) {
  RunnerLimits limits = LimitsOf(options, *model);
  const DeviceStream stream = model->stream();
  const bool cuda = stream.device() == Device::kCuda;
  if (!cuda && !options.slots_on_device) {
    ASSIGN_OR_RETURN(KvMemory kv, AllocateKv(options, *model));
    limits.num_blocks = kv.num_blocks();
    return std::make_unique<HostExecutor>(model, std::move(kv), limits);
  }
  ASSIGN_OR_RETURN(StepBuffers buffers,
                   StepBuffers::Allocate(limits, model->rope().most_scratch_bytes(), stream));
  ASSIGN_OR_RETURN(KvMemory kv, AllocateKv(options, *model));
  limits.num_blocks = kv.num_blocks();
  return std::make_unique<DeviceExecutor>(model, std::move(kv), std::move(buffers), limits,
                                          cuda && options.cuda_graphs);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LlamaRunner>> LlamaRunner::Create(
    std::unique_ptr<LlamaModel> model, std::shared_ptr<Collectives> ranks,
    const LlamaRunnerOptions& options) {
  CARAVAN_CHECK(ranks->rank() == model->layout().shard.rank &&
                ranks->world_size() == model->layout().shard.world_size);
  RETURN_IF_ERROR(CheckOptions(options, *model));
  ASSIGN_OR_RETURN(std::unique_ptr<StepExecutor> executor, MakeExecutor(options, model.get()));
  return std::unique_ptr<LlamaRunner>(
      new LlamaRunner(std::move(model), std::move(executor), std::move(ranks)));
}

LlamaRunner::LlamaRunner(std::unique_ptr<LlamaModel> model, std::unique_ptr<StepExecutor> executor,
                         std::shared_ptr<Collectives> ranks)
    : model_(std::move(model)), executor_(std::move(executor)), ranks_(std::move(ranks)) {
  thread_ = std::thread([this] { RunSteps(); });
}

LlamaRunner::~LlamaRunner() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    ranks_->Abort();
  }
  changed_.notify_all();
  thread_.join();
}

absl::Status LlamaRunner::Submit(const StepPlan& plan) {
  {
    const std::lock_guard lock(mutex_);
    RETURN_IF_ERROR(failure_);
    CARAVAN_CHECK(uncollected_ < limits().max_steps_in_flight, uncollected_, " steps in flight");
    ++uncollected_;
    pending_.push_back(plan);
  }
  changed_.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> LlamaRunner::Collect() {
  std::unique_lock lock(mutex_);
  CARAVAN_CHECK(uncollected_ > 0 || !failure_.ok(), "no step to collect");
  changed_.wait(lock, [this] { return started_ > 0 || !failure_.ok(); });
  if (started_ == 0) return failure_;
  lock.unlock();
  absl::StatusOr<StepResult> result = executor_->Finish();
  steps_done_.fetch_add(1, std::memory_order_relaxed);
  lock.lock();
  --started_;
  --uncollected_;
  if (!result.ok() && failure_.ok()) {
    failure_ = result.status();
    pending_.clear();
  }
  return result;
}

absl::Status LlamaRunner::Recover(absl::Duration timeout) {
  std::shared_ptr<Collectives> ranks;
  {
    const std::lock_guard lock(mutex_);
    if (failure_.ok()) return absl::OkStatus();
    if (!absl::IsUnavailable(failure_)) return failure_;
    ranks = ranks_;
  }
  if (ranks->world_size() > 1) {
    return absl::FailedPreconditionError("the replica's next group is not formed");
  }
  Reset(std::move(ranks));
  return AwaitEpoch(timeout);
}

void LlamaRunner::Reset(std::shared_ptr<Collectives> ranks) {
  {
    std::unique_lock lock(mutex_);
    CARAVAN_CHECK(ranks->rank() == ranks_->rank() && ranks->world_size() == ranks_->world_size());
    pending_.clear();
    if (ranks != ranks_) ranks_->Abort();
    changed_.wait(lock, [this] { return !running_; });
    uncollected_ = 0;
    started_ = 0;
    failure_ = absl::OkStatus();
    ranks_ = std::move(ranks);
    beginning_ = true;
  }
  changed_.notify_all();
}

absl::Status LlamaRunner::AwaitEpoch(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const bool begun = changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                                       [this] { return !beginning_ || !failure_.ok(); });
  return begun ? failure_ : absl::DeadlineExceededError("this rank makes ready for the epoch");
}

void LlamaRunner::Abort() {
  const std::lock_guard lock(mutex_);
  ranks_->Abort();
}

StepProgress LlamaRunner::progress() const {
  const std::lock_guard lock(mutex_);
  // After a failure nothing is awaited, whatever was started.
  const bool awaited = failure_.ok() && (beginning_ || started_ > 0 || !pending_.empty());
  const uint64_t steps = steps_done_.load(std::memory_order_relaxed);
  const uint64_t epochs = epochs_begun_.load(std::memory_order_relaxed);
  return {steps, step_.load(std::memory_order_relaxed), model_->layers_done(),
          steps + epochs + model_->all_layers_done(), running_ || awaited};
}

void LlamaRunner::RunSteps() {
  pthread_setname_np(pthread_self(), "runner");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || beginning_ || !pending_.empty(); });
    if (stopping_) return;
    running_ = true;
    absl::Status status;
    if (beginning_) {
      const std::shared_ptr<Collectives> ranks = ranks_;
      lock.unlock();
      epochs_begun_.fetch_add(1, std::memory_order_relaxed);
      status = executor_->BeginEpoch(ranks);
      lock.lock();
      beginning_ = false;
    } else {
      const StepPlan plan = std::move(pending_.front());
      pending_.pop_front();
      lock.unlock();
      status = Start(plan);
      lock.lock();
      started_ += status.ok();
    }
    running_ = false;
    if (!status.ok()) {
      failure_ = status;
      pending_.clear();
    }
    changed_.notify_all();
  }
}

absl::Status LlamaRunner::Start(const StepPlan& plan) {
  step_.store(plan.step, std::memory_order_relaxed);
  return executor_->Enqueue(plan);
}

}  // namespace caravan
