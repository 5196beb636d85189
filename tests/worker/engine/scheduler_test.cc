#include "worker/engine/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

namespace caravan {
namespace {

class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() {
    limits_.block_tokens = 4;
    limits_.num_blocks = 100;
    limits_.max_slots = 8;
    limits_.max_batch_tokens = 1000;
    limits_.max_context_tokens = 1000;
    limits_.vocab_size = 1000;
  }

  Scheduler& scheduler() {
    if (!scheduler_) scheduler_ = std::make_unique<Scheduler>(options_, limits_);
    return *scheduler_;
  }

  // A request of `prompt` tokens that differ from every other's; waiting.
  SequencePtr Add(int32_t prompt, int32_t max_tokens = 100, int32_t priority = 0) {
    Request request;
    request.prompt.resize(prompt);
    std::iota(request.prompt.begin(), request.prompt.end(), 1000 * static_cast<int32_t>(order_));
    request.sampling.max_tokens = max_tokens;
    request.priority = priority;
    return AddRequest(std::move(request));
  }
  SequencePtr AddRequest(Request request) {
    auto shared = std::make_shared<const Request>(std::move(request));
    const SequenceRank rank = RankOf(*shared, now_, order_++, 0);
    auto sequence = std::make_shared<Sequence>(shared, rank, limits_.block_tokens);
    scheduler().Enqueue(sequence);
    return sequence;
  }

  // Plans a step and gives each sequence that draws the token 0.
  PlannedStep Step() {
    PlannedStep step = scheduler().Plan();
    for (const SequencePtr& sequence : step.drawn) {
      --sequence->in_flight;
      sequence->Append(0, scheduler().max_length());
      scheduler().Publish(*sequence);
    }
    scheduler().CheckInvariants();
    return step;
  }
  // Tokens of the step per sequence, in the order of `sequences`; 0 where it is not in the step.
  std::vector<int32_t> Shares(const PlannedStep& step, const std::vector<SequencePtr>& sequences) {
    std::vector<int32_t> shares;
    for (const SequencePtr& sequence : sequences) {
      int32_t tokens = 0;
      for (const SlotWork& work : step.plan.work) {
        if (work.slot == sequence->slot) tokens = work.num_tokens;
      }
      shares.push_back(tokens);
    }
    return shares;
  }
  using Expected = std::vector<int32_t>;

  SchedulerOptions options_;
  RunnerLimits limits_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  uint64_t order_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerTest, GivesRunningSequencesTheirTokensBeforeWaitingOnes) {
  options_.max_batch_tokens = 10;
  const auto a = Add(8);
  Step();
  const auto b = Add(20);
  EXPECT_EQ(Shares(Step(), {a, b}), (Expected{1, 9}));
  const auto c = Add(3);
  EXPECT_EQ(Shares(Step(), {a, b, c}), (Expected{1, 9, 0}));
  EXPECT_EQ(Shares(Step(), {a, b, c}), (Expected{1, 2, 3}));
  EXPECT_EQ(Shares(Step(), {a, b, c}), (Expected{1, 1, 1}));
}

TEST_F(SchedulerTest, CutsAPromptIntoChunks) {
  options_.max_prefill_chunk_tokens = 6;
  const auto a = Add(15);
  const PlannedStep first = Step();
  EXPECT_EQ(Shares(first, {a}), Expected{6});
  EXPECT_FALSE(first.plan.work[0].sample);
  EXPECT_EQ(Shares(Step(), {a}), Expected{6});
  const PlannedStep last = Step();
  EXPECT_EQ(Shares(last, {a}), Expected{3});
  EXPECT_TRUE(last.plan.work[0].sample);
  EXPECT_EQ(last.plan.work[0].start_position, 12);
}

TEST_F(SchedulerTest, AdmitsByPriorityThenByArrival) {
  options_.max_running_sequences = 1;
  const auto low = Add(4, 1, 1);
  const auto first = Add(4, 1, 0);
  const auto second = Add(4, 1, 0);
  const auto urgent = Add(4, 1, -1);
  for (const auto& next : {urgent, first, second, low}) {
    EXPECT_EQ(Step().admitted, std::vector<SequencePtr>{next});
    scheduler().Finish(next);
  }
}

TEST_F(SchedulerTest, ALowPriorityThatHasWaitedLongComesBeforeNewOnes) {
  options_.max_running_sequences = 1;
  const auto low = Add(4, 1, 1);
  now_ += kHeadStartPerPriority / 2;
  const auto soon = Add(4, 1, 0);
  now_ += kHeadStartPerPriority;
  const auto late = Add(4, 1, 0);
  for (const auto& next : {soon, low, late}) {
    EXPECT_EQ(Step().admitted, std::vector<SequencePtr>{next});
    scheduler().Finish(next);
  }
}

TEST_F(SchedulerTest, ANearDeadlineGoesFirstWithinItsPriority) {
  options_.max_running_sequences = 1;
  const auto calm = Add(4, 1);
  Request request;
  request.prompt = {1, 2, 3};
  request.deadline = now_ + absl::Seconds(1);
  const auto hurried = AddRequest(request);
  EXPECT_EQ(Step().admitted, std::vector<SequencePtr>{hurried});
  scheduler().Finish(hurried);
  EXPECT_EQ(Step().admitted, std::vector<SequencePtr>{calm});
}

TEST_F(SchedulerTest, PreemptsTheYoungestSequenceWhenBlocksRunOut) {
  limits_.num_blocks = 4;
  const auto a = Add(4);
  const auto b = Add(4);
  while (scheduler().preemptions() == 0) Step();
  EXPECT_EQ(a->state, SequenceState::kRunning);
  EXPECT_EQ(b->state, SequenceState::kWaiting);
  EXPECT_EQ(a->table.num_blocks(), 3);
  EXPECT_EQ(b->table.num_blocks(), 0);
  // It keeps what it generated, and comes back with it as soon as there is room.
  const std::vector<int32_t> tokens = b->tokens;
  EXPECT_GT(b->emitted(), 0);
  scheduler().Finish(a);
  const auto c = Add(4);
  const PlannedStep step = scheduler().Plan();
  ASSERT_EQ(step.admitted.front(), b);
  EXPECT_EQ(step.plan.setups[0].tokens, tokens);
  EXPECT_EQ(step.plan.setups[0].prompt_tokens, 4);
}

TEST_F(SchedulerTest, PreemptsTheLowestPriorityBeforeTheYoungest) {
  limits_.num_blocks = 7;
  const auto low = Add(4, 100, 1);
  const auto a = Add(4);
  const auto b = Add(4);
  while (scheduler().preemptions() == 0) Step();
  EXPECT_EQ(low->state, SequenceState::kWaiting);
  EXPECT_EQ(a->state, SequenceState::kRunning);
  EXPECT_EQ(b->state, SequenceState::kRunning);
}

TEST_F(SchedulerTest, APreemptedSequenceIsAdmittedBeforeThoseThatNeverRan) {
  limits_.num_blocks = 4;
  const auto a = Add(4);
  const auto b = Add(4);
  while (scheduler().preemptions() == 0) Step();
  const auto urgent = Add(4, 1, -5);
  scheduler().Finish(a);
  EXPECT_EQ(Step().admitted.front(), b);
}

// Nobody is behind it, and those before it run on: losing its blocks would help nobody.
TEST_F(SchedulerTest, StallsWhereOnlyBetterSequencesHoldBlocks) {
  limits_.num_blocks = 6;
  const auto a = Add(14);
  const auto b = Add(4);
  Step();
  EXPECT_EQ(Shares(Step(), {a, b}), (Expected{1, 1}));  // a: 15 of 16, b: a second block
  EXPECT_EQ(Shares(Step(), {a, b}), (Expected{1, 1}));
  EXPECT_EQ(scheduler().pool().available_blocks(), 0);
  EXPECT_EQ(scheduler().preemptions(), 0u);
  // a needs a fifth block and takes b's.
  EXPECT_EQ(Shares(Step(), {a}), Expected{1});
  EXPECT_EQ(b->state, SequenceState::kWaiting);
}

// Found by the random schedules: the fork copied from a block that was itself a copy of this step,
// and copies run in no order.
TEST_F(SchedulerTest, DoesNotForkFromAParentThatIsAdmittedInTheSameStep) {
  limits_.num_blocks = 6;
  const auto hog = Add(8);
  const auto parent = Add(8);
  auto fork = std::make_shared<Sequence>(parent->request, RankOf(*parent->request, now_, 1, 1), 4);
  fork->state = SequenceState::kForking;
  fork->parent = parent;
  parent->forks.push_back(fork);
  // No result comes in: the parent is preempted with its bare prompt.
  while (scheduler().preemptions() == 0) scheduler().Plan();
  ASSERT_EQ(parent->known(), 8);
  scheduler().Finish(hog);
  const PlannedStep step = scheduler().Plan();
  ASSERT_EQ(step.admitted, (std::vector<SequencePtr>{parent, fork}));
  ASSERT_EQ(step.plan.copies.size(), 2u);
  EXPECT_EQ(step.plan.copies[0].from, step.plan.copies[1].from);
  EXPECT_NE(step.plan.copies[0].to, step.plan.copies[1].to);
}

TEST_F(SchedulerTest, SharesTheBlocksOfAnEqualPrefixButComputesTheLastToken) {
  Request request;
  request.prompt = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto a = AddRequest(request);
  Step();
  const auto b = AddRequest(request);
  const PlannedStep step = Step();
  EXPECT_EQ(Shares(step, {a, b}), (Expected{1, 1}));
  EXPECT_EQ(step.cached_tokens, 7);
  EXPECT_EQ(b->cached_tokens, 7);
  EXPECT_EQ(b->table.blocks()[0], a->table.blocks()[0]);
  // The block of the last token is another's: copied.
  ASSERT_EQ(step.plan.copies.size(), 1u);
  EXPECT_EQ(step.plan.copies[0].from, a->table.blocks()[1]);
  EXPECT_EQ(step.plan.copies[0].to, b->table.blocks()[1]);
}

TEST_F(SchedulerTest, SharesNothingThatTheSameStepComputes) {
  Request request;
  request.prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto a = AddRequest(request);
  const auto b = AddRequest(request);
  EXPECT_EQ(Shares(Step(), {a, b}), (Expected{9, 9}));
  EXPECT_NE(a->table.blocks()[0], b->table.blocks()[0]);
}

TEST_F(SchedulerTest, SharesNothingAcrossSaltsOrWithTheCacheOff) {
  Request request;
  request.prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto a = AddRequest(request);
  Step();
  auto salted = std::make_shared<Sequence>(a->request, RankOf(request, now_, order_++, 0), 4);
  salted->root = RootHash(5, 0);
  scheduler().Enqueue(salted);
  EXPECT_EQ(Shares(Step(), {salted}), Expected{9});

  options_.enable_prefix_cache = false;
  scheduler_ = nullptr;
  AddRequest(request);
  Step();
  const auto uncached = AddRequest(request);
  EXPECT_EQ(Shares(Step(), {uncached}), Expected{9});
  EXPECT_EQ(scheduler().pool().cached_blocks(), 0);
}

TEST_F(SchedulerTest, PlansADecodeBeforeTheTokenOfTheLastStepIsKnown) {
  const auto a = Add(4, 3);
  EXPECT_EQ(scheduler().Plan().plan.work[0].num_tokens, 4);
  const PlannedStep second = scheduler().Plan();
  EXPECT_EQ(second.plan.work[0].start_position, 4);
  EXPECT_TRUE(second.plan.work[0].sample);
  EXPECT_EQ(scheduler().Plan().plan.work[0].start_position, 5);
  // max_tokens are drawn: no surplus step.
  EXPECT_TRUE(scheduler().Plan().plan.work.empty());
}

TEST_F(SchedulerTest, TellsOfAReleasedSlotOnceInTheNextStepThatRuns) {
  const auto a = Add(4);
  const int32_t slot = (Step(), a->slot);
  scheduler().Finish(a);
  EXPECT_TRUE(Step().plan.work.empty());
  Add(4);
  EXPECT_EQ(Step().plan.released_slots, std::vector<int32_t>{slot});
  EXPECT_TRUE(Step().plan.released_slots.empty());
}

TEST_F(SchedulerTest, CutsPromptsToTheTimeOfAStep) {
  options_.step_time_target_ms = 10;
  for (int i = 1; i <= 50; ++i) {  // 1 ms and 0.1 ms a token
    scheduler().cost_model().Observe({10 * i, 0}, 1e-3 + 1e-4 * 10 * i);
  }
  const auto a = Add(2);
  Step();
  const auto b = Add(300);
  EXPECT_NEAR(Shares(Step(), {b})[0], 89, 5);  // 10 ms - 1 ms, less a decode
}

TEST_F(SchedulerTest, PromptsAdvanceByABlockWhereDecodesExceedTheTimeOfAStep) {
  options_.step_time_target_ms = 10;
  for (int i = 0; i < 50; ++i) scheduler().cost_model().Observe({10, 0}, 1);
  const auto a = Add(300);
  EXPECT_EQ(Shares(Step(), {a}), Expected{limits_.block_tokens});
}

}  // namespace
}  // namespace caravan
