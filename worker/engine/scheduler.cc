#include "worker/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "common/status.h"

namespace caravan {
namespace {

bool Before(const SequencePtr& a, const SequencePtr& b) { return a->rank < b->rank; }

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, const RunnerLimits& limits)
    : options_(options),
      limits_(limits),
      max_length_(static_cast<int32_t>(std::min<int64_t>(
          limits.max_context_tokens, int64_t{limits.num_blocks} * limits.block_tokens + 1))),
      pool_(limits.num_blocks) {
  CARAVAN_CHECK(options.max_batch_tokens > 0 && options.max_prefill_chunk_tokens > 0);
  CARAVAN_CHECK(options.max_running_sequences > 0 && limits.max_slots > 0);
  Reset();
}

void Scheduler::Reset() {
  CARAVAN_CHECK(running_.empty(), "running=", running_.size());
  pool_.Reset();
  released_slots_.clear();
  free_slots_.clear();
  for (int32_t i = std::min(options_.max_running_sequences, limits_.max_slots); i > 0; --i) {
    free_slots_.push_back(i - 1);
  }
  next_step_ = 1;
}

void Scheduler::Enqueue(SequencePtr sequence) {
  sequence->state = SequenceState::kWaiting;
  waiting_.insert(std::move(sequence));
}

PlannedStep Scheduler::Plan() {
  PlannedStep step;
  budget_ = std::min(options_.max_batch_tokens, limits_.max_batch_tokens);
  PlanDecodes(step);
  prefill_budget_ = PrefillTokens(step);
  PlanPrefills(step);
  PlanWaiting(step);
  if (!step.plan.work.empty()) Complete(step);
  return step;
}

void Scheduler::PlanDecodes(PlannedStep& step) {
  // Preemption shortens the vector behind i alone.
  for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    const SequencePtr sequence = running_[i];
    if (sequence->lacking(max_length_) != 1) continue;
    const int32_t first = sequence->computed;
    if (!MakeRoom(sequence, sequence->table.BlocksToPrepare(pool_, first, first + 1))) continue;
    sequence->table.Prepare(pool_, first, first + 1, changes_);
    PlanWork(sequence, 1, step);
  }
}

// At least a block's worth, or prompts would starve where decodes alone exceed the target.
int32_t Scheduler::PrefillTokens(const PlannedStep& step) const {
  if (options_.step_time_target_ms <= 0) return budget_;
  const double seconds = options_.step_time_target_ms / 1e3;
  const int32_t within = cost_model_.TokensWithin(seconds, step.load);
  return std::min(budget_, std::max(within, limits_.block_tokens));
}

void Scheduler::PlanPrefills(PlannedStep& step) {
  for (const SequencePtr& sequence : running_) {
    if (prefill_budget_ == 0) return;
    const int32_t lacking = sequence->lacking(max_length_);
    if (sequence->planned > 0 || lacking <= 1) continue;
    PlanWork(sequence, std::min({lacking, prefill_budget_, options_.max_prefill_chunk_tokens}),
             step);
  }
}

void Scheduler::PlanWaiting(PlannedStep& step) {
  while (!waiting_.empty() && prefill_budget_ > 0 && !free_slots_.empty()) {
    if (!FindBlocks(**waiting_.begin())) return;
    Admit(step);
  }
}

void Scheduler::Admit(PlannedStep& step) {
  const SequencePtr sequence = std::move(waiting_.extract(waiting_.begin()).value());
  if (!sequence->preempted) {
    const bool forked = sequence->parent != nullptr;
    sequence->cached_tokens = forked ? sequence->parent->cached_tokens
                                     : std::min(sequence->computed, sequence->prompt_length());
    if (!forked) step.cached_tokens += sequence->cached_tokens;
  }
  sequence->parent.reset();
  sequence->preempted = false;
  sequence->state = SequenceState::kRunning;
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  sequence->first_step = next_step_;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, Before), sequence);
  step.admitted.push_back(sequence);
  step.plan.setups.push_back(
      {sequence->slot, sequence->tokens, sequence->prompt_length() - sequence->request->num_resumed,
       sequence->request->sampling, static_cast<uint32_t>(sequence->rank.sample_index)});
  PlanWork(sequence,
           std::min({sequence->lacking(max_length_), prefill_budget_,
                     options_.max_prefill_chunk_tokens}),
           step);
}

// Blocks for all that the sequence lacks, so that a prompt, once begun, never waits for blocks. The
// last token is computed in any case: its logits are needed.
bool Scheduler::FindBlocks(Sequence& sequence) {
  const int32_t length = sequence.known();
  BlockTable& table = sequence.table;
  // A parent of this very step (it was preempted and is back) may still await copies of its own.
  const Sequence* parent = sequence.parent.get();
  if (parent != nullptr && parent->state == SequenceState::kRunning &&
      parent->first_step < next_step_ && parent->computed >= length - 1) {
    table.Fork(pool_, parent->table, length - 1);
    sequence.computed = length - 1;
  } else if (options_.enable_prefix_cache) {
    sequence.computed = std::min(table.Match(pool_, sequence.root, sequence.tokens), length - 1);
  }
  // Each running sequence needs a block soon; admitting into the last ones would preempt at once.
  const int32_t reserve = (num_running() + 3) / 4;
  int32_t needed = table.BlocksToPrepare(pool_, sequence.computed, length);
  if (running_.empty() && needed > pool_.available_blocks()) {
    // The copy of the last cached block has no place beside it: computed again, in its place.
    table.ReleaseLast(pool_);
    sequence.computed = table.num_blocks() * limits_.block_tokens;
    needed = table.BlocksToPrepare(pool_, sequence.computed, length);
    CARAVAN_CHECK(needed <= pool_.available_blocks(), "needed=", needed);
  }
  if (needed + reserve > pool_.available_blocks()) {
    table.Release(pool_);
    sequence.computed = 0;
    return false;
  }
  table.Prepare(pool_, sequence.computed, length, changes_);
  return true;
}

bool Scheduler::MakeRoom(const SequencePtr& sequence, int32_t blocks) {
  while (pool_.available_blocks() < blocks) {
    const auto last = std::find_if(running_.rbegin(), running_.rend(), [&](const auto& other) {
      return other == sequence || (other->planned == 0 && other->lacking(max_length_) > 0);
    });
    const SequencePtr victim = *last;
    if (victim == sequence) return false;
    Preempt(victim);
  }
  return true;
}

void Scheduler::Preempt(const SequencePtr& victim) {
  Leave(victim);
  victim->computed = 0;
  victim->in_flight = 0;
  victim->preempted = true;
  ++victim->preemptions;
  ++preemptions_;
  Enqueue(victim);
}

void Scheduler::PlanWork(const SequencePtr& sequence, int32_t tokens, PlannedStep& step) {
  SlotWork work;
  work.slot = sequence->slot;
  work.start_position = sequence->computed;
  work.num_tokens = tokens;
  const int32_t end = sequence->computed + tokens;
  work.sample = end == sequence->length();
  if (std::vector<int32_t> blocks = sequence->table.TakeNew(); !blocks.empty()) {
    work.new_blocks.push_back({0, std::move(blocks)});
  }
  work.replaced_blocks = std::exchange(changes_.replaced, {});
  step.plan.work.push_back(std::move(work));
  if (end == sequence->length()) {
    step.drawn.push_back(sequence);
    step.preemptions.push_back(sequence->preemptions);
  }
  sequence->planned = tokens;
  step.load.tokens += tokens;
  step.load.context_tokens += end;
  const int32_t prompt = sequence->prompt_length();
  step.prompt_tokens += std::min(end, prompt) - std::min(sequence->computed, prompt);
  budget_ -= tokens;
  prefill_budget_ -= std::min(prefill_budget_, tokens);
}

void Scheduler::Complete(PlannedStep& step) {
  step.plan.step = next_step_++;
  step.plan.released_slots = std::exchange(released_slots_, {});
  step.plan.copies = std::exchange(changes_.copies, {});
  for (int32_t block : std::exchange(changes_.sources, {})) pool_.Release(block);
  for (const SequencePtr& sequence : running_) {
    sequence->computed += std::exchange(sequence->planned, 0);
    Publish(*sequence);
  }
  for (const SequencePtr& sequence : step.drawn) {
    ++sequence->in_flight;
    for (SequencePtr& fork : std::exchange(sequence->forks, {})) Enqueue(std::move(fork));
  }
}

void Scheduler::Publish(Sequence& sequence) {
  if (!options_.enable_prefix_cache) return;
  sequence.table.Publish(pool_, sequence.root, sequence.tokens, sequence.computed);
}

void Scheduler::Finish(const SequencePtr& sequence) {
  switch (sequence->state) {
    case SequenceState::kForking:
      std::erase(sequence->parent->forks, sequence);
      break;
    case SequenceState::kWaiting:
      waiting_.erase(sequence);
      break;
    case SequenceState::kRunning:
      Leave(sequence);
      break;
    case SequenceState::kFinished:
      return;
  }
  sequence->state = SequenceState::kFinished;
  sequence->parent.reset();
  for (SequencePtr& fork : std::exchange(sequence->forks, {})) Enqueue(std::move(fork));
}

void Scheduler::Leave(const SequencePtr& sequence) {
  sequence->table.Release(pool_);
  released_slots_.push_back(sequence->slot);
  free_slots_.push_back(sequence->slot);
  sequence->slot = -1;
  running_.erase(std::find(running_.begin(), running_.end(), sequence));
}

void Scheduler::CheckInvariants() const {
  std::vector<std::span<const int32_t>> tables;
  std::vector<int32_t> slots = free_slots_;
  for (const SequencePtr& sequence : running_) {
    tables.push_back(sequence->table.blocks());
    slots.push_back(sequence->slot);
    CARAVAN_CHECK(sequence->computed <= sequence->table.num_blocks() * limits_.block_tokens,
                  "computed=", sequence->computed, " blocks=", sequence->table.num_blocks());
    CARAVAN_CHECK(sequence->computed <= sequence->length() && sequence->planned == 0);
    CARAVAN_CHECK(sequence->state == SequenceState::kRunning);
  }
  for (const SequencePtr& sequence : waiting_) {
    CARAVAN_CHECK(sequence->table.num_blocks() == 0 && sequence->slot == -1);
    CARAVAN_CHECK(sequence->in_flight == 0 && sequence->state == SequenceState::kWaiting);
  }
  pool_.CheckInvariants(tables);
  std::sort(slots.begin(), slots.end());
  const int32_t total = std::min(options_.max_running_sequences, limits_.max_slots);
  CARAVAN_CHECK(static_cast<int32_t>(slots.size()) == total, "slots=", slots.size());
  for (int32_t i = 0; i < total; ++i) CARAVAN_CHECK(slots[i] == i, "slot=", i);
  CARAVAN_CHECK(std::is_sorted(running_.begin(), running_.end(), Before));
}

}  // namespace caravan
