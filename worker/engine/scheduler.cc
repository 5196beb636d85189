#include "worker/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "common/status.h"

namespace caravan {
namespace {

bool Before(const SequencePtr& a, const SequencePtr& b) { return a->rank < b->rank; }

// Full blocks of what a beam's tokens have in common with the group's first one's.
int32_t CommonBlocks(const Sequence& lead, const Sequence& sibling, int32_t block_tokens) {
  const auto end = std::mismatch(lead.tokens.begin(), lead.tokens.end(), sibling.tokens.begin(),
                                 sibling.tokens.end() - 1);
  return static_cast<int32_t>(end.first - lead.tokens.begin()) / block_tokens;
}

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
  while (!waiting_.empty() && prefill_budget_ > 0) {
    const SequencePtr& next = *waiting_.begin();
    const size_t slots = next->group != nullptr ? static_cast<size_t>(next->group->width) : 1;
    if (free_slots_.size() < slots || !FindBlocks(next)) return;
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
  TakeSlot(sequence, free_slots_);
  if (sequence->group != nullptr) AdmitSiblings(sequence);
  step.admitted.push_back(sequence);
  PlanWork(sequence,
           std::min({sequence->lacking(max_length_), prefill_budget_,
                     options_.max_prefill_chunk_tokens}),
           step);
}

void Scheduler::TakeSlot(const SequencePtr& sequence, std::vector<int32_t>& from) {
  sequence->state = SequenceState::kRunning;
  sequence->slot = from.back();
  from.pop_back();
  sequence->first_step = next_step_;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, Before), sequence);
}

// The whole group's slots are taken at once: two groups with some of theirs each would wait for one
// another.
void Scheduler::AdmitSiblings(const SequencePtr& lead) {
  BeamGroup& group = *lead->group;
  for (int32_t i = 1; i < group.width; ++i) {
    group.spare_slots.push_back(free_slots_.back());
    free_slots_.pop_back();
  }
  for (const SequencePtr& sequence : group.live) {
    if (sequence != lead) TakeSlot(sequence, group.spare_slots);
  }
}

int32_t Scheduler::BlocksOfSiblings(const Sequence& lead) const {
  if (lead.group == nullptr) return 0;
  int32_t blocks = 0;
  for (const SequencePtr& sibling : lead.group->live) {
    if (sibling.get() == &lead) continue;
    blocks += sibling->table.BlocksToPrepare(pool_, 0, sibling->known()) -
              CommonBlocks(lead, *sibling, limits_.block_tokens);
  }
  return blocks;
}

// A group that was preempted: what its beams have in common is computed once, by the first.
void Scheduler::ShareWithSiblings(const SequencePtr& lead) {
  if (lead->group == nullptr) return;
  for (const SequencePtr& sibling : lead->group->live) {
    if (sibling == lead) continue;
    const int32_t shared =
        CommonBlocks(*lead, *sibling, limits_.block_tokens) * limits_.block_tokens;
    sibling->table.Fork(pool_, lead->table, shared);
    sibling->table.Prepare(pool_, shared, sibling->known(), changes_);
    sibling->computed = shared;
    sibling->shared_from = lead;
    sibling->shared_positions = shared;
  }
}

// Blocks for all that the sequence lacks, so that a prompt, once begun, never waits for blocks. The
// last token is computed in any case: its logits are needed.
bool Scheduler::FindBlocks(const SequencePtr& waiting) {
  Sequence& sequence = *waiting;
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
  const int32_t of_siblings = BlocksOfSiblings(sequence);
  int32_t needed = of_siblings + table.BlocksToPrepare(pool_, sequence.computed, length);
  if (running_.empty() && needed > pool_.available_blocks()) {
    // The copy of the last cached block has no place beside it: computed again, in its place.
    table.ReleaseLast(pool_);
    sequence.computed = table.num_blocks() * limits_.block_tokens;
    needed = of_siblings + table.BlocksToPrepare(pool_, sequence.computed, length);
    CARAVAN_CHECK(needed <= pool_.available_blocks(), "needed=", needed);
  }
  if (needed + reserve > pool_.available_blocks()) {
    table.Release(pool_);
    sequence.computed = 0;
    return false;
  }
  table.Prepare(pool_, sequence.computed, length, changes_);
  ShareWithSiblings(waiting);
  return true;
}

bool Scheduler::MakeRoom(const SequencePtr& sequence, int32_t blocks) {
  while (pool_.available_blocks() < blocks) {
    const auto last = std::find_if(running_.rbegin(), running_.rend(), [&](const auto& other) {
      return other == sequence || other->group != nullptr ||
             (other->planned == 0 && other->lacking(max_length_) > 0);
    });
    const SequencePtr victim = *last;
    if (victim == sequence || (victim->group != nullptr && victim->group == sequence->group)) {
      return false;
    }
    Preempt(victim);
  }
  return true;
}

void Scheduler::Preempt(const SequencePtr& victim) {
  if (victim->group != nullptr) return PreemptGroup(*victim->group);
  Leave(victim, free_slots_);
  victim->computed = 0;
  victim->in_flight = 0;
  victim->preempted = true;
  ++victim->preemptions;
  ++preemptions_;
  Enqueue(victim);
}

// What its beams drew is dropped with their KV: the search has not seen it.
void Scheduler::PreemptGroup(BeamGroup& group) {
  for (const SequencePtr& sequence : group.live) {
    Leave(sequence, free_slots_);
    sequence->state = SequenceState::kForking;
    sequence->computed = 0;
    sequence->in_flight = 0;
    sequence->candidates.reset();
    sequence->shared_from.reset();
    ++sequence->preemptions;
    ++preemptions_;
  }
  free_slots_.insert(free_slots_.end(), group.spare_slots.begin(), group.spare_slots.end());
  group.spare_slots.clear();
  group.live[0]->preempted = true;
  Enqueue(group.live[0]);
}

void Scheduler::AdvanceBeams(BeamGroup& group, const std::vector<BeamChoice>& choices) {
  std::vector<SequencePtr> children(group.live.size());
  for (const BeamChoice& choice : choices) {
    const auto parent = static_cast<size_t>(choice.parent);
    children[parent] = group.live[parent];
  }
  for (size_t i = 0; i < children.size(); ++i) {
    if (children[i] != nullptr) continue;
    Leave(group.live[i], group.spare_slots);
    group.live[i]->state = SequenceState::kFinished;
  }
  std::vector<SequencePtr> next;
  for (const BeamChoice& choice : choices) {
    const auto parent = static_cast<size_t>(choice.parent);
    SequencePtr first_child = std::exchange(children[parent], nullptr);
    next.push_back(first_child != nullptr ? first_child : ForkBeam(group.live[parent]));
  }
  for (size_t i = 0; i < next.size(); ++i) {
    next[i]->tokens.push_back(choices[i].token_id);
    next[i]->candidates.reset();
    next[i]->shared_from.reset();
    Publish(*next[i]);
  }
  group.live = std::move(next);
}

// The token that tells the child from its parent is appended later.
SequencePtr Scheduler::ForkBeam(const SequencePtr& parent) {
  BeamGroup& group = *parent->group;
  SequenceRank rank = parent->rank;
  rank.sample_index = group.sequences_made++;
  auto child = std::make_shared<Sequence>(parent->request, rank, limits_.block_tokens);
  child->root = parent->root;
  child->tokens = parent->tokens;
  child->computed = parent->computed;
  child->cached_tokens = parent->cached_tokens;
  child->group = &group;
  child->table.Fork(pool_, parent->table, parent->computed);
  TakeSlot(child, group.spare_slots);
  return child;
}

void Scheduler::FinishBeams(BeamGroup& group) {
  for (const SequencePtr& sequence : group.live) Finish(sequence);
  group.live.clear();
  free_slots_.insert(free_slots_.end(), group.spare_slots.begin(), group.spare_slots.end());
  group.spare_slots.clear();
}

void Scheduler::PlanWork(const SequencePtr& sequence, int32_t tokens, PlannedStep& step) {
  SlotWork work;
  work.slot = sequence->slot;
  work.start_position = sequence->computed;
  work.num_tokens = tokens;
  const int32_t end = sequence->computed + tokens;
  TellRunner(*sequence, work, step.plan);
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

// A sequence that is new to its slot, or the token that a search chose for it.
void Scheduler::TellRunner(Sequence& sequence, SlotWork& work, StepPlan& plan) {
  const int32_t end = work.start_position + work.num_tokens;
  if (!std::exchange(sequence.set_up, true)) {
    plan.setups.push_back(
        {sequence.slot, sequence.tokens, sequence.prompt_length() - sequence.request->num_resumed,
         BeamSampling(*sequence.request), static_cast<uint32_t>(sequence.rank.sample_index)});
    sequence.told = sequence.known();
  } else if (sequence.group != nullptr && end > sequence.told) {
    work.token_ids.assign(sequence.tokens.begin() + work.start_position,
                          sequence.tokens.begin() + end);
    sequence.told = end;
  }
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
  if (!options_.enable_prefix_cache || sequence.awaits_shared()) return;
  sequence.table.Publish(pool_, sequence.root, sequence.tokens, sequence.computed);
}

void Scheduler::Finish(const SequencePtr& sequence) {
  switch (sequence->state) {
    case SequenceState::kForking:
      if (sequence->parent != nullptr) std::erase(sequence->parent->forks, sequence);
      break;
    case SequenceState::kWaiting:
      waiting_.erase(sequence);
      break;
    case SequenceState::kRunning:
      Leave(sequence, free_slots_);
      break;
    case SequenceState::kFinished:
      return;
  }
  sequence->state = SequenceState::kFinished;
  sequence->parent.reset();
  sequence->shared_from.reset();
  for (SequencePtr& fork : std::exchange(sequence->forks, {})) Enqueue(std::move(fork));
}

void Scheduler::Leave(const SequencePtr& sequence, std::vector<int32_t>& slots) {
  sequence->table.Release(pool_);
  if (std::exchange(sequence->set_up, false)) released_slots_.push_back(sequence->slot);
  slots.push_back(sequence->slot);
  sequence->slot = -1;
  running_.erase(std::find(running_.begin(), running_.end(), sequence));
}

void Scheduler::CheckInvariants() const {
  std::vector<std::span<const int32_t>> tables;
  std::vector<int32_t> slots = free_slots_;
  const BeamGroup* group = nullptr;  // of the last sequence: they stand side by side
  for (const SequencePtr& sequence : running_) {
    if (sequence->group != nullptr && sequence->group != group) {
      const std::vector<int32_t>& spare = sequence->group->spare_slots;
      CARAVAN_CHECK(static_cast<int32_t>(spare.size() + sequence->group->live.size()) ==
                        sequence->group->width,
                    "spare=", spare.size(), " live=", sequence->group->live.size());
      slots.insert(slots.end(), spare.begin(), spare.end());
    }
    group = sequence->group;
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
    if (sequence->group == nullptr) continue;
    CARAVAN_CHECK(sequence->group->live[0] == sequence && sequence->group->spare_slots.empty());
    for (const SequencePtr& sibling : sequence->group->live) {
      CARAVAN_CHECK(sibling->slot == -1 && sibling->table.num_blocks() == 0);
    }
  }
  pool_.CheckInvariants(tables);
  std::sort(slots.begin(), slots.end());
  const int32_t total = std::min(options_.max_running_sequences, limits_.max_slots);
  CARAVAN_CHECK(static_cast<int32_t>(slots.size()) == total, "slots=", slots.size());
  for (int32_t i = 0; i < total; ++i) CARAVAN_CHECK(slots[i] == i, "slot=", i);
  CARAVAN_CHECK(std::is_sorted(running_.begin(), running_.end(), Before));
}

}  // namespace caravan
