// Decides which sequences run in the next step, with how many tokens, in which slots and blocks.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "worker/engine/block_pool.h"
#include "worker/engine/cost_model.h"
#include "worker/engine/model_runner.h"
#include "worker/engine/sequence.h"
#include "worker/engine/step_plan.h"

namespace caravan {

struct SchedulerOptions {
  int32_t max_batch_tokens = 2048;
  int32_t max_prefill_chunk_tokens = 512;
  int32_t max_running_sequences = 256;
  double step_time_target_ms = 0;  // 0: no target
  bool enable_prefix_cache = true;
};

// A step and what its result is for.
struct PlannedStep {
  StepPlan plan;                      // no work: there is nothing to run
  std::vector<SequencePtr> drawn;     // whose token the step draws, in the plan's order
  std::vector<uint32_t> preemptions;  // theirs, when the step was planned
  std::vector<SequencePtr> admitted;  // took a slot
  StepLoad load;
  int32_t prompt_tokens = 0;  // computed by it
  int32_t cached_tokens = 0;  // of admitted prompts, found in the cache
};

// One token budget a step and no phases: each sequence gets as many tokens as it lacks. Running
// ones that lack one token (decodes) come first, then running ones that lack more, in chunks, then
// waiting ones as long as slots and blocks suffice for all that they lack. Where a decode needs a
// block and there is none, it takes those of the last-ranked sequence behind it, which recomputes
// them later (at the front of the queue); where nobody is behind it, it stalls until a
// better-ranked one leaves. Not thread-safe (the engine's thread).
class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, const RunnerLimits& limits);

  // Tokens that a sequence can have at most: the model's context, or what the whole pool holds and
  // one more (the last token's KV is never needed).
  int32_t max_length() const { return max_length_; }

  // The sequence waits for its turn.
  void Enqueue(SequencePtr sequence);

  // Plans the next step and counts it as submitted: it must be submitted next, or Reset follows.
  PlannedStep Plan();

  // `sequence` was given a token that a step drew: its blocks may be full and known now.
  void Publish(Sequence& sequence);

  // Takes it from wherever it is; state kFinished from now on.
  void Finish(const SequencePtr& sequence);

  // The live beams, which have all drawn, go on as `choices`: the first child of a beam goes on in
  // its place, further ones fork its blocks, beams without children leave.
  void AdvanceBeams(BeamGroup& group, const std::vector<BeamChoice>& choices);

  // Finishes all live beams and gives up the group's slots.
  void FinishBeams(BeamGroup& group);

  // The runner lost everything: no sequence runs now (all were finished), all slots and blocks are
  // empty, the next step is number 1.
  void Reset();

  CostModel& cost_model() { return cost_model_; }
  const BlockPool& pool() const { return pool_; }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  uint64_t preemptions() const { return preemptions_; }
  void CheckInvariants() const;

 private:
  // Preempted ones first: their clients have begun to read.
  struct Sooner {
    bool operator()(const SequencePtr& a, const SequencePtr& b) const {
      if (a->preempted != b->preempted) return a->preempted;
      return a->rank < b->rank;
    }
  };

  void PlanDecodes(PlannedStep& step);
  void PlanPrefills(PlannedStep& step);
  void PlanWaiting(PlannedStep& step);
  void Admit(PlannedStep& step);
  bool FindBlocks(const SequencePtr& waiting);
  int32_t BlocksOfSiblings(const Sequence& lead) const;
  void ShareWithSiblings(const SequencePtr& lead);
  void AdmitSiblings(const SequencePtr& lead);
  bool MakeRoom(const SequencePtr& sequence, int32_t blocks);
  void Preempt(const SequencePtr& victim);
  void PreemptGroup(BeamGroup& group);
  SequencePtr ForkBeam(const SequencePtr& parent);
  void PlanWork(const SequencePtr& sequence, int32_t tokens, PlannedStep& step);
  void Complete(PlannedStep& step);
  void TakeSlot(const SequencePtr& sequence, std::vector<int32_t>& from);
  void Leave(const SequencePtr& sequence, std::vector<int32_t>& slots);
  void TellRunner(Sequence& sequence, SlotWork& work, StepPlan& plan);
  int32_t PrefillTokens(const PlannedStep& step) const;

  const SchedulerOptions options_;
  const RunnerLimits limits_;
  const int32_t max_length_;
  BlockPool pool_;
  CostModel cost_model_;
  std::vector<SequencePtr> running_;       // by rank
  std::set<SequencePtr, Sooner> waiting_;  // by turn
  std::vector<int32_t> free_slots_;
  std::vector<int32_t> released_slots_;  // that no step was told of yet
  TableChanges changes_;                 // of the step that is being planned
  int32_t budget_ = 0;                   // tokens left in it
  int32_t prefill_budget_ = 0;           // of them, for others than decodes
  uint64_t next_step_ = 1;
  uint64_t preemptions_ = 0;
};

}  // namespace caravan
