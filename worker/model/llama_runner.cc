#include "worker/model/llama_runner.h"

#include <algorithm>
#include <chrono>

#include "common/status.h"
#include "kernels/paged_attention.h"
#include "kernels/sampling.h"

namespace caravan {
namespace {

constexpr int32_t kMaxSlots = 1 << 16;

EmittedToken Emitted(const SamplingOutput& output) {
  EmittedToken token;
  token.token_id = output.token_id;
  token.logprob = output.logprob;
  for (int32_t i = 0; i < output.num_top; ++i) {
    token.top_logprobs.emplace_back(output.top[i].token_id, output.top[i].logprob);
  }
  return token;
}

}  // namespace

struct LlamaRunner::Batch {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> rope_rows;
  std::vector<int32_t> query_starts = {0};
  std::vector<int32_t> context_lengths;
  std::vector<int32_t> block_tables;
  int64_t block_table_stride = 0;
  std::vector<int32_t> logit_rows;

  ForwardBatch View() const {
    return {token_ids,
            rope_rows,
            {query_starts, context_lengths, block_tables.data(), block_table_stride},
            logit_rows};
  }
};

absl::StatusOr<std::unique_ptr<LlamaRunner>> LlamaRunner::Create(
    std::unique_ptr<LlamaModel> model, std::shared_ptr<Collectives> ranks,
    const LlamaRunnerOptions& options) {
  CARAVAN_CHECK(ranks->rank() == model->layout().shard.rank &&
                ranks->world_size() == model->layout().shard.world_size);
  const int32_t most_slots = std::min(kMaxSlots, model->max_logit_rows());
  if (options.max_slots < 1 || options.max_slots > most_slots) {
    return absl::InvalidArgumentError(absl::StrCat("--max_running_sequences is ", options.max_slots,
                                                   ", must be in [1, ", most_slots, "]"));
  }
  if (options.max_steps_in_flight < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--pipeline_depth is ", options.max_steps_in_flight, ", must be at least 1"));
  }
  const KvMemoryOptions kv_options = {options.block_tokens, options.num_blocks,
                                      options.kv_cache_bytes, model->dtype()};
  ASSIGN_OR_RETURN(KvMemory kv, KvMemory::Allocate(model->config(), model->layout(), kv_options));
  return std::unique_ptr<LlamaRunner>(
      new LlamaRunner(std::move(model), std::move(ranks), std::move(kv), options));
}

LlamaRunner::LlamaRunner(std::unique_ptr<LlamaModel> model, std::shared_ptr<Collectives> ranks,
                         KvMemory kv, const LlamaRunnerOptions& options)
    : model_(std::move(model)),
      kv_(std::move(kv)),
      slots_(static_cast<size_t>(options.max_slots)),
      ranks_(std::move(ranks)) {
  limits_.block_tokens = kv_.block_tokens();
  limits_.num_blocks = kv_.num_blocks();
  limits_.max_slots = options.max_slots;
  limits_.max_batch_tokens = model_->max_batch_tokens();
  limits_.max_context_tokens = model_->max_context_tokens();
  limits_.vocab_size = model_->config().vocab_size;
  limits_.max_steps_in_flight = options.max_steps_in_flight;
  limits_.max_shareable_prompt_tokens = model_->rope().max_shareable_prompt_tokens();
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
    CARAVAN_CHECK(uncollected_ < limits_.max_steps_in_flight, uncollected_, " steps in flight");
    ++uncollected_;
    pending_.push_back(plan);
  }
  changed_.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> LlamaRunner::Collect() {
  std::unique_lock lock(mutex_);
  CARAVAN_CHECK(uncollected_ > 0 || !failure_.ok(), "no step to collect");
  changed_.wait(lock, [this] { return !done_.empty() || !failure_.ok(); });
  if (done_.empty()) return failure_;
  --uncollected_;
  StepResult result = std::move(done_.front());
  done_.pop_front();
  return result;
}

absl::Status LlamaRunner::Recover(absl::Duration) {
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
  return absl::OkStatus();
}

void LlamaRunner::Reset(std::shared_ptr<Collectives> ranks) {
  std::unique_lock lock(mutex_);
  CARAVAN_CHECK(ranks->rank() == ranks_->rank() && ranks->world_size() == ranks_->world_size());
  pending_.clear();
  if (ranks != ranks_) ranks_->Abort();
  changed_.wait(lock, [this] { return !running_; });
  done_.clear();
  uncollected_ = 0;
  failure_ = absl::OkStatus();
  for (SlotState& slot : slots_) slot.Release();
  ranks_ = std::move(ranks);
}

void LlamaRunner::Abort() {
  const std::lock_guard lock(mutex_);
  ranks_->Abort();
}

StepProgress LlamaRunner::progress() const {
  return {steps_done_.load(std::memory_order_relaxed), step_.load(std::memory_order_relaxed),
          model_->layers_done(), busy_.load(std::memory_order_relaxed)};
}

void LlamaRunner::RunSteps() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !pending_.empty(); });
    if (stopping_) return;
    const StepPlan plan = std::move(pending_.front());
    pending_.pop_front();
    const std::shared_ptr<Collectives> ranks = ranks_;
    running_ = true;
    lock.unlock();
    step_.store(plan.step, std::memory_order_relaxed);
    busy_.store(true, std::memory_order_relaxed);
    absl::StatusOr<StepResult> result = RunStep(plan, *ranks);
    busy_.store(false, std::memory_order_relaxed);
    steps_done_.fetch_add(1, std::memory_order_relaxed);
    lock.lock();
    running_ = false;
    if (result.ok()) {
      done_.push_back(*std::move(result));
    } else {
      failure_ = result.status();
      pending_.clear();
    }
    changed_.notify_all();
  }
}

absl::StatusOr<StepResult> LlamaRunner::RunStep(const StepPlan& plan, Collectives& ranks) {
  const auto start = std::chrono::steady_clock::now();
  StepResult result;
  RETURN_IF_ERROR(UpdateSlots(plan));
  if (!plan.work.empty()) {
    ASSIGN_OR_RETURN(const Batch batch, MakeBatch(plan));
    RETURN_IF_ERROR(CopyBlocks(plan));
    ASSIGN_OR_RETURN(const MatrixView logits,
                     model_->Forward(batch.View(), kv_, ranks, DeviceStream::Cpu()));
    ASSIGN_OR_RETURN(result, Draw(plan, logits, ranks));
  }
  result.step = plan.step;
  result.run_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

absl::Status LlamaRunner::UpdateSlots(const StepPlan& plan) {
  const auto check = [this](int32_t slot) {
    if (slot >= 0 && slot < limits_.max_slots) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat("step plan: slot ", slot, " of ", limits_.max_slots, " does not exist"));
  };
  for (const int32_t slot : plan.released_slots) {
    RETURN_IF_ERROR(check(slot));
    slots_[static_cast<size_t>(slot)].Release();
  }
  for (const SlotSetup& setup : plan.setups) {
    RETURN_IF_ERROR(check(setup.slot));
    slots_[static_cast<size_t>(setup.slot)].Setup(setup, limits_.vocab_size);
  }
  for (const SlotWork& work : plan.work) {
    RETURN_IF_ERROR(check(work.slot));
    RETURN_IF_ERROR(slots_[static_cast<size_t>(work.slot)].BeginWork(work, limits_.num_blocks,
                                                                     limits_.block_tokens));
    if (int64_t{work.start_position} + work.num_tokens > limits_.max_context_tokens) {
      return absl::InternalError(absl::StrCat("step plan: slot ", work.slot, " exceeds ",
                                              limits_.max_context_tokens, " positions"));
    }
  }
  return absl::OkStatus();
}

absl::Status LlamaRunner::CopyBlocks(const StepPlan& plan) {
  if (plan.copies.empty()) return absl::OkStatus();
  std::vector<BlockCopy> copies;
  for (const KvBlockCopy& copy : plan.copies) {
    const auto exists = [this](int32_t b) { return b >= 0 && b < limits_.num_blocks; };
    if (!exists(copy.from) || !exists(copy.to) || copy.kv_group != 0) {
      return absl::InternalError(absl::StrCat("step plan: copy of block ", copy.from, " to ",
                                              copy.to, " of ", limits_.num_blocks));
    }
    copies.push_back({copy.from, copy.to});
  }
  for (int32_t layer = 0; layer < model_->config().num_layers; ++layer) {
    CopyKvBlocks(kv_.layer(layer), copies, DeviceStream::Cpu());
  }
  return absl::OkStatus();
}

absl::StatusOr<LlamaRunner::Batch> LlamaRunner::MakeBatch(const StepPlan& plan) {
  if (plan.num_tokens() > limits_.max_batch_tokens) {
    return absl::InternalError(absl::StrCat("step plan: ", plan.num_tokens(), " tokens, at most ",
                                            limits_.max_batch_tokens, " fit"));
  }
  Batch batch;
  const auto tokens = static_cast<size_t>(plan.num_tokens());
  batch.token_ids.reserve(tokens);
  batch.rope_rows.reserve(tokens);
  model_->rope().BeginStep();
  for (const SlotWork& work : plan.work) {
    const SlotState& slot = slots_[static_cast<size_t>(work.slot)];
    for (int32_t i = 0; i < work.num_tokens; ++i) {
      const int32_t position = work.start_position + i;
      batch.token_ids.push_back(slot.tokens()[static_cast<size_t>(position)]);
      batch.rope_rows.push_back(model_->rope().RowFor(position, slot.prompt_tokens()));
    }
    batch.query_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
    batch.context_lengths.push_back(work.start_position + work.num_tokens);
    if (work.sample) batch.logit_rows.push_back(batch.query_starts.back() - 1);
    batch.block_table_stride =
        std::max(batch.block_table_stride, static_cast<int64_t>(slot.blocks().size()));
  }
  batch.block_tables.resize(plan.work.size() * static_cast<size_t>(batch.block_table_stride));
  auto row = batch.block_tables.begin();
  for (const SlotWork& work : plan.work) {
    const auto blocks = slots_[static_cast<size_t>(work.slot)].blocks();
    std::copy(blocks.begin(), blocks.end(), row);
    row += batch.block_table_stride;
  }
  return batch;
}

// Rank 0 draws; the ids go to all ranks, which append them to their slots.
absl::StatusOr<StepResult> LlamaRunner::Draw(const StepPlan& plan, MatrixView logits,
                                             Collectives& ranks) {
  std::vector<const SlotWork*> drawing;
  for (const SlotWork& work : plan.work) {
    if (work.sample) drawing.push_back(&work);
  }
  StepResult result;
  if (drawing.empty()) return result;
  const auto slot_of = [this](const SlotWork& work) -> SlotState& {
    return slots_[static_cast<size_t>(work.slot)];
  };
  std::vector<SamplingOutput> outputs(drawing.size());
  if (ranks.rank() == 0) {
    std::vector<SamplingRow> rows;
    rows.reserve(drawing.size());
    for (const SlotWork* work : drawing) {
      rows.push_back(slot_of(*work).RowFor(work->start_position + work->num_tokens));
    }
    Sample(logits, limits_.vocab_size, rows, outputs, DeviceStream::Cpu());
  }
  std::vector<int32_t> ids;
  ids.reserve(outputs.size());
  for (const SamplingOutput& output : outputs) ids.push_back(output.token_id);
  RETURN_IF_ERROR(ranks.Broadcast(ids.data(), ids.size() * sizeof(int32_t), /*root=*/0));
  for (size_t i = 0; i < drawing.size(); ++i) {
    outputs[i].token_id = ids[i];
    slot_of(*drawing[i]).SetToken(drawing[i]->start_position + drawing[i]->num_tokens, ids[i]);
    result.slots.push_back({drawing[i]->slot, {Emitted(outputs[i])}});
  }
  return result;
}

}  // namespace caravan
