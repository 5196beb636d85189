#include "worker/engine/engine.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/worker/engine/engine_harness.h"

namespace caravan {
namespace {

// Every test runs in the simple loop and in the pipelined one, one to three steps deep.
class EngineTest : public ::testing::TestWithParam<int32_t> {
 protected:
  EngineTest() {
    options_.pipelined = GetParam() > 0;
    options_.pipeline_depth = GetParam();
    limits_.block_tokens = 4;
    limits_.num_blocks = 64;
    limits_.max_slots = 8;
    limits_.max_batch_tokens = 64;
    limits_.max_context_tokens = 128;
    limits_.vocab_size = 1000;
    limits_.max_steps_in_flight = 3;
  }

  EngineHarness& harness() {
    if (!harness_) harness_ = std::make_unique<EngineHarness>(options_, limits_);
    return *harness_;
  }
  Engine& engine() { return harness().engine(); }
  void Submit(const Request& request) { ASSERT_TRUE(harness().Submit(request).ok()); }

  void RunAndExpectAlone(const std::vector<Request>& requests) {
    for (const Request& request : requests) Submit(request);
    harness().RunUntilIdle();
    for (const Request& request : requests) harness().ExpectAlone(request);
    harness().ExpectEmpty();
  }
  int32_t TokensRun() {
    int32_t sum = 0;
    for (const StepPlan& plan : harness().runner().plans()) sum += plan.num_tokens();
    return sum;
  }

  EngineOptions options_;
  RunnerLimits limits_;
  std::unique_ptr<EngineHarness> harness_;
};

INSTANTIATE_TEST_SUITE_P(Loops, EngineTest, ::testing::Values(0, 1, 2, 3), [](const auto& info) {
  return info.param == 0 ? std::string("Simple") : "Pipelined" + std::to_string(info.param);
});

TEST_P(EngineTest, AnswersOneRequest) {
  const Request request = MakeRequest(1, Tokens(10), 5);
  RunAndExpectAlone({request});
  EXPECT_EQ(harness().OutputOf(1).tokens.size(), 5u);
  EXPECT_EQ(engine().Stats().finished, 1u);
  EXPECT_EQ(engine().Stats().generated_tokens, 5u);
  EXPECT_EQ(engine().Stats().prompt_tokens, 10u);
}

TEST_P(EngineTest, AnswersManyRequestsAsIfEachWereAlone) {
  std::vector<Request> requests;
  for (int i = 1; i <= 30; ++i) requests.push_back(MakeRequest(i, Tokens(3 * i, i), 40 - i));
  RunAndExpectAlone(requests);
}

TEST_P(EngineTest, KeepsAsManyStepsInFlightAsAsked) {
  Submit(MakeRequest(1, Tokens(4), 20));
  Submit(MakeRequest(2, Tokens(4), 20));
  harness().RunUntilIdle();
  EXPECT_EQ(harness().runner().max_in_flight(), std::max(1, GetParam()));
}

TEST_P(EngineTest, RunsNoStepBeyondMaxTokens) {
  RunAndExpectAlone({MakeRequest(1, Tokens(10), 5)});
  EXPECT_EQ(TokensRun(), 10 + 4);
}

// Steps of the same sequences: what a device computes may depend on what else a step holds.
TEST_P(EngineTest, RunsTheStepsOfTheSimpleLoopWhereAllHaveSlotsAndNoDrawEndsASequence) {
  using Row = std::tuple<int32_t, int32_t, bool>;  // begin, tokens, draws
  const auto steps = [](EngineHarness& harness) {
    std::vector<std::vector<Row>> steps;
    for (const StepPlan& plan : harness.runner().plans()) {
      if (plan.work.empty()) continue;  // slots are released
      steps.emplace_back();
      for (const SlotWork& work : plan.work) {
        steps.back().emplace_back(work.start_position, work.num_tokens, work.sample);
      }
    }
    return steps;
  };
  EngineOptions simple_options = options_;
  simple_options.pipelined = false;
  EngineHarness simple(simple_options, limits_);
  for (int32_t i = 1; i <= 6; ++i) {
    Request request = MakeRequest(i, Tokens(7 * i, i), 3 + i % 4);
    request.num_samples = i == 2 ? 3 : 1;
    Submit(request);
    ASSERT_TRUE(simple.Submit(request).ok());
  }
  harness().RunUntilIdle();
  simple.RunUntilIdle();
  EXPECT_GE(steps(simple).size(), 7U);
  EXPECT_EQ(steps(harness()), steps(simple));
}

TEST_P(EngineTest, StopsAtAStopTokenAndDropsTheSurplus) {
  Request request = MakeRequest(1, Tokens(6), 50);
  const Output free = harness().Alone(request);
  request.sampling.stop_token_ids = {free.tokens[7]};
  RunAndExpectAlone({request});
  EXPECT_EQ(harness().OutputOf(1).finish, FinishReason::kStopToken);
  EXPECT_EQ(harness().OutputOf(1).tokens.size(), 8u) << "the stop token itself is emitted";
}

// The KV of surplus tokens must not be found by a request that goes on differently.
TEST_P(EngineTest, SurplusTokensDoNotPoisonTheCache) {
  Request request = MakeRequest(1, Tokens(6), 50);
  const Output free = harness().Alone(request);
  for (int32_t length = 1; length <= 12; ++length) {
    request.key = 10 + length;
    request.sampling.stop_token_ids = {free.tokens[length]};
    RunAndExpectAlone({request});
    Request next = MakeRequest(100 + length, request.prompt, 5);
    next.prompt.insert(next.prompt.end(), free.tokens.begin(), free.tokens.begin() + length + 1);
    for (int32_t i = 0; i < 8; ++i) next.prompt.push_back(7);
    RunAndExpectAlone({next});
  }
}

TEST_P(EngineTest, IgnoresStopTokensBeforeMinTokens) {
  Request request = MakeRequest(1, Tokens(6), 50);
  for (int32_t i = 0; i < 1000; i += 2) request.sampling.stop_token_ids.push_back(i);
  request.sampling.min_tokens = 9;
  RunAndExpectAlone({request});
  EXPECT_GT(harness().OutputOf(1).tokens.size(), 9u);
}

TEST_P(EngineTest, EndsWithLengthWhereTheContextIsFull) {
  limits_.max_context_tokens = 16;
  RunAndExpectAlone({MakeRequest(1, Tokens(10), 50)});
  EXPECT_EQ(harness().OutputOf(1).tokens.size(), 6u);
  EXPECT_EQ(harness().OutputOf(1).finish, FinishReason::kLength);
}

TEST_P(EngineTest, EndsWithLengthWhereTheWholePoolIsFull) {
  limits_.num_blocks = 3;
  RunAndExpectAlone({MakeRequest(1, Tokens(10), 50), MakeRequest(2, Tokens(9, 50), 50)});
  EXPECT_EQ(harness().OutputOf(1).tokens.size(), 3u) << "12 positions, and one without KV";
  EXPECT_EQ(harness().OutputOf(2).tokens.size(), 4u);
}

TEST_P(EngineTest, RefusesWhatCanNotEverFitWithBothNumbers) {
  limits_.max_context_tokens = 16;
  limits_.num_blocks = 3;
  absl::Status status = harness().Submit(MakeRequest(1, Tokens(16), 1));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(),
            "the prompt has 16 tokens, the model takes at most 15 and one to generate");
  status = harness().Submit(MakeRequest(1, Tokens(13), 1));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "the prompt has 13 tokens and needs 4 KV blocks, the worker has 3");
  EXPECT_TRUE(absl::IsInvalidArgument(harness().Submit(MakeRequest(1, {}, 1))));
  RunAndExpectAlone({MakeRequest(1, Tokens(12), 4)});
}

TEST_P(EngineTest, RefusesAKeyThatIsInUseAndTakesItAfterwards) {
  const Request request = MakeRequest(1, Tokens(4), 3);
  Submit(request);
  EXPECT_TRUE(absl::IsAlreadyExists(engine().Submit(request)));
  harness().RunUntilIdle();
  RunAndExpectAlone({request});
}

TEST_P(EngineTest, RefusesMoreThanTheQueueTakesButNotAResume) {
  options_.max_waiting_requests = 2;
  limits_.max_slots = 1;
  Submit(MakeRequest(1, Tokens(4), 30));
  engine().StepOnce();
  const Request second = MakeRequest(2, Tokens(4), 3);
  const Request third = MakeRequest(3, Tokens(4), 3);
  Submit(second);
  Submit(third);
  Request more = MakeRequest(4, Tokens(8), 8);
  EXPECT_TRUE(absl::IsResourceExhausted(engine().Submit(more)));
  engine().StepOnce();
  EXPECT_TRUE(absl::IsResourceExhausted(engine().Submit(more)));
  more.num_resumed = 4;
  RunAndExpectAlone({more});
  harness().ExpectAlone(second);
}

TEST_P(EngineTest, ContinuesAResumedRequestWhereItsClientStopped) {
  Request request = MakeRequest(1, Tokens(10), 20);
  const Output whole = harness().Alone(request);
  request.prompt.insert(request.prompt.end(), whole.tokens.begin(), whole.tokens.begin() + 12);
  request.num_resumed = 12;
  RunAndExpectAlone({request});
  EXPECT_EQ(harness().OutputOf(1).tokens,
            std::vector<int32_t>(whole.tokens.begin() + 12, whole.tokens.end()));
  EXPECT_EQ(harness().runner().plans()[0].setups[0].prompt_tokens, 10);
  // Nothing is left to generate: it only ends.
  request.num_resumed = 20;
  request.prompt = Tokens(30);
  RunAndExpectAlone({request});
}

TEST_P(EngineTest, ReusesThePrefixOfAnEarlierPromptAndItsAnswer) {
  const Request first = MakeRequest(1, Tokens(10), 11);
  RunAndExpectAlone({first});
  Request second = MakeRequest(2, first.prompt, 5);
  const std::vector<int32_t>& answer = harness().OutputOf(1).tokens;
  second.prompt.insert(second.prompt.end(), answer.begin(), answer.end());
  second.prompt.push_back(7);
  RunAndExpectAlone({second});
  // The KV of the last token of the answer was never needed: 20 of 21 positions.
  EXPECT_EQ(harness().OutputOf(2).cached_prompt_tokens, 20);
  EXPECT_EQ(engine().Stats().cached_tokens, 20u);
}

TEST_P(EngineTest, SharesNothingBetweenSaltsNorLongPromptsOfOtherLengths) {
  limits_.max_shareable_prompt_tokens = 16;
  const Request first = MakeRequest(1, Tokens(20), 2);
  RunAndExpectAlone({first});
  const Request longer = MakeRequest(2, Tokens(21), 2);
  const Request shorter = MakeRequest(3, Tokens(16), 2);
  const Request equal = MakeRequest(4, Tokens(20), 2);
  Request salted = MakeRequest(5, Tokens(20), 2);
  salted.cache_salt = 1;
  salted.sampling.seed = uint64_t{1} << 56;
  for (const Request& request : {longer, shorter, equal, salted}) RunAndExpectAlone({request});
  EXPECT_EQ(harness().OutputOf(2).cached_prompt_tokens, 0);
  EXPECT_EQ(harness().OutputOf(3).cached_prompt_tokens, 0);
  EXPECT_EQ(harness().OutputOf(4).cached_prompt_tokens, 19);
  EXPECT_EQ(harness().OutputOf(5).cached_prompt_tokens, 0);
}

TEST_P(EngineTest, ComputesThePromptOnceForAllSamples) {
  options_.enable_prefix_cache = false;
  Request request = MakeRequest(1, Tokens(22), 4);
  request.num_samples = 3;
  RunAndExpectAlone({request});
  std::set<std::vector<int32_t>> answers;
  for (int32_t i = 0; i < 3; ++i) answers.insert(harness().OutputOf(1, i).tokens);
  EXPECT_EQ(answers.size(), 3u);
  // The prompt, its last token again for each other sample, three decodes each.
  EXPECT_EQ(TokensRun(), 22 + 2 + 3 * 3);
  int32_t copies = 0;
  for (const StepPlan& plan : harness().runner().plans()) copies += plan.copies.size();
  EXPECT_EQ(copies, 2) << "the block of the last token, per other sample";
}

TEST_P(EngineTest, AnswersAllSamplesWhereTheyCanNotRunTogether) {
  limits_.num_blocks = 4;
  limits_.max_slots = 2;
  Request request = MakeRequest(1, Tokens(9), 6);
  request.num_samples = 4;
  RunAndExpectAlone({request, MakeRequest(2, Tokens(9, 100), 6)});
}

TEST_P(EngineTest, ResumesAPreemptedSequenceWithoutRepeatingAToken) {
  limits_.num_blocks = 8;
  std::vector<Request> requests;
  for (int i = 1; i <= 4; ++i) requests.push_back(MakeRequest(i, Tokens(6, 100 * i), 20));
  RunAndExpectAlone(requests);
  EXPECT_GT(engine().Stats().preemptions, 0u);
}

TEST_P(EngineTest, CancelsInEveryState) {
  limits_.max_slots = 2;
  limits_.max_batch_tokens = 8;
  Request samples = MakeRequest(1, Tokens(4), 30);
  samples.num_samples = 2;
  Submit(samples);
  harness().RunUntilTokens(1, 3, 1);
  Submit(MakeRequest(2, Tokens(20), 5));  // waits: both slots are taken
  engine().StepOnce();
  engine().Cancel(1);
  engine().Cancel(77);  // unknown
  engine().StepOnce();
  EXPECT_EQ(harness().OutputOf(1, 0).finish, FinishReason::kCancelled);
  EXPECT_EQ(harness().OutputOf(1, 1).finish, FinishReason::kCancelled);
  EXPECT_TRUE(harness().OutputOf(1, 0).status.ok());
  engine().Cancel(2);  // in the middle of its prompt
  Submit(MakeRequest(3, Tokens(4), 5));
  engine().Cancel(3);  // before it was seen
  harness().RunUntilIdle();
  EXPECT_EQ(harness().OutputOf(2).finish, FinishReason::kCancelled);
  EXPECT_EQ(harness().OutputOf(3).finish, FinishReason::kCancelled);
  EXPECT_TRUE(harness().OutputOf(3).tokens.empty());
  EXPECT_EQ(engine().Stats().cancelled, 3u);
  harness().ExpectEmpty();
}

TEST_P(EngineTest, EndsARequestAtItsDeadline) {
  limits_.max_slots = 1;
  Request running = MakeRequest(1, Tokens(4), 100);
  Request waiting = MakeRequest(2, Tokens(4), 100);
  running.deadline = waiting.deadline = harness().now() + absl::Seconds(2);
  Submit(running);
  Submit(waiting);
  harness().RunUntilTokens(1, 2);
  harness().Advance(absl::Seconds(2));
  engine().StepOnce();
  for (RequestKey key : {1, 2}) {
    EXPECT_EQ(harness().OutputOf(key).finish, FinishReason::kDeadline);
    EXPECT_TRUE(absl::IsDeadlineExceeded(harness().OutputOf(key).status));
  }
  harness().RunUntilIdle();
  harness().ExpectEmpty();
}

TEST_P(EngineTest, DeliversAllNewsOfAStepInOneCall) {
  for (int i = 1; i <= 4; ++i) Submit(MakeRequest(i, Tokens(4, 100 * i), 5));
  harness().RunUntilIdle();
  EXPECT_EQ(harness().deliveries(), 5);
}

TEST_P(EngineTest, FailsOnlyWhatHasBegunWhenARankIsLost) {
  limits_.max_slots = 1;
  const Request begun = MakeRequest(1, Tokens(4), 20);
  const Request waiting = MakeRequest(2, Tokens(4, 9), 20);
  Submit(begun);
  Submit(waiting);
  harness().RunUntilTokens(1, 3);
  harness().runner().Fail(absl::UnavailableError("rank 1 is gone"), 3);
  engine().StepOnce();
  EXPECT_EQ(harness().OutputOf(1).finish, FinishReason::kError);
  EXPECT_EQ(harness().OutputOf(1).status,
            absl::UnavailableError("a rank of the replica was lost: rank 1 is gone; retry"));
  EXPECT_TRUE(engine().Stats().recovering);
  EXPECT_EQ(engine().Stats().used_blocks, 0);
  harness().RunUntilIdle();
  EXPECT_FALSE(engine().Stats().recovering);
  EXPECT_EQ(harness().runner().recover_calls(), 4);
  harness().ExpectAlone(waiting);
  EXPECT_TRUE(engine().status().ok());
  harness().ExpectEmpty();
}

TEST_P(EngineTest, RecoversFromALossWhileIdleAndFailsNoRequest) {
  const Request before = MakeRequest(1, Tokens(20), 5);
  Submit(before);
  harness().RunUntilIdle();
  harness().runner().LoseIdle();
  engine().Wake();
  harness().RunUntilIdle();
  EXPECT_EQ(harness().runner().recover_calls(), 1);
  EXPECT_EQ(engine().Stats().cached_blocks, 0);
  const Request after = MakeRequest(2, Tokens(20), 5);
  Submit(after);
  harness().RunUntilIdle();
  harness().ExpectAlone(before);
  harness().ExpectAlone(after);
  harness().ExpectEmpty();
}

TEST_P(EngineTest, ServesItsMailboxWhileARankIsMissing) {
  Submit(MakeRequest(1, Tokens(4), 20));
  harness().RunUntilTokens(1, 3);
  harness().runner().Fail(absl::UnavailableError("rank 1 is gone"), 4);
  engine().StepOnce();
  Request late = MakeRequest(2, Tokens(4), 5);
  late.deadline = harness().now() + absl::Seconds(1);
  const Request patient = MakeRequest(3, Tokens(4), 5);
  Submit(late);
  Submit(patient);
  Submit(MakeRequest(4, Tokens(4), 5));
  engine().Cancel(4);
  harness().Advance(absl::Seconds(1));
  engine().StepOnce();
  EXPECT_TRUE(engine().Stats().recovering);
  EXPECT_EQ(harness().OutputOf(2).finish, FinishReason::kDeadline);
  EXPECT_EQ(harness().OutputOf(4).finish, FinishReason::kCancelled);
  EXPECT_EQ(engine().Stats().waiting_requests, 1);
  harness().RunUntilIdle();
  harness().ExpectAlone(patient);
  harness().ExpectEmpty();
}

TEST_P(EngineTest, AnyOtherErrorOfTheRunnerIsFatal) {
  Submit(MakeRequest(1, Tokens(4), 20));
  engine().StepOnce();
  Submit(MakeRequest(2, Tokens(4), 20));
  harness().runner().Fail(absl::InternalError("out of memory"));
  engine().StepOnce();
  for (RequestKey key : {1, 2}) {
    EXPECT_EQ(harness().OutputOf(key).finish, FinishReason::kError);
    EXPECT_EQ(harness().OutputOf(key).status, absl::InternalError("out of memory"));
  }
  EXPECT_EQ(engine().status(), absl::InternalError("out of memory"));
  EXPECT_TRUE(absl::IsUnavailable(engine().Submit(MakeRequest(3, Tokens(4), 20))));
  EXPECT_FALSE(engine().StepOnce());
}

// It used to be answered OK with token 0, which most vocabularies have no text for.
TEST_P(EngineTest, ARequestWhoseLogitsAreNoNumbersFailsAlone) {
  limits_.dtype = "float16";
  Request damaged = MakeRequest(1, Tokens(6), 20);
  damaged.num_samples = 2;
  const std::vector<Request> others = {MakeRequest(2, Tokens(9, 20), 20),
                                       MakeRequest(3, Tokens(30, 40), 12)};
  const Output alone = harness().Alone(damaged);
  harness().runner().DamageAfter(alone.tokens[2]);
  Submit(damaged);
  for (const Request& request : others) Submit(request);
  harness().RunUntilIdle();
  const Output& output = harness().OutputOf(1, 0);
  EXPECT_EQ(output.finish, FinishReason::kError);
  EXPECT_EQ(output.tokens, std::vector(alone.tokens.begin(), alone.tokens.begin() + 3));
  EXPECT_EQ(output.status,
            absl::InternalError("the model's logits are not numbers at token 4 (position 9): "
                                "damaged weights, or an overflow in float16; check the model's "
                                "files, or try --dtype=bfloat16 or float32"));
  EXPECT_EQ(harness().OutputOf(1, 1).finish, FinishReason::kError);
  EXPECT_EQ(harness().OutputOf(1, 1).status, output.status);
  for (const Request& request : others) harness().ExpectAlone(request);
  EXPECT_EQ(engine().Stats().nonfinite_logits, 1U);
  EXPECT_EQ(engine().Stats().finished, 3U);
  EXPECT_TRUE(engine().status().ok());
  harness().ExpectEmpty();
}

TEST_P(EngineTest, AFailedRecoveryIsFatal) {
  Submit(MakeRequest(1, Tokens(4), 20));
  harness().runner().FailRecovery(absl::FailedPreconditionError("another model"));
  harness().runner().Fail(absl::UnavailableError("rank 1 is gone"));
  harness().RunUntilIdle();
  EXPECT_TRUE(absl::IsFailedPrecondition(engine().status()));
}

TEST_P(EngineTest, StopFailsWhatIsInFlight) {
  limits_.max_slots = 1;
  Submit(MakeRequest(1, Tokens(4), 20));
  Submit(MakeRequest(2, Tokens(4), 20));
  harness().RunUntilTokens(1, 3);
  Submit(MakeRequest(3, Tokens(4), 20));
  engine().Stop();
  for (RequestKey key : {1, 2, 3}) {
    EXPECT_EQ(harness().OutputOf(key).finish, FinishReason::kError);
    EXPECT_TRUE(absl::IsUnavailable(harness().OutputOf(key).status));
  }
  EXPECT_TRUE(absl::IsUnavailable(engine().Submit(MakeRequest(4, Tokens(4), 20))));
  EXPECT_EQ(harness().runner().steps_in_flight(), 0);
  EXPECT_TRUE(engine().status().ok());
  harness().ExpectEmpty();
}

TEST_P(EngineTest, DrainRefusesNewRequestsAndFinishesTheOthers) {
  const Request request = MakeRequest(1, Tokens(4), 5);
  Submit(request);
  EXPECT_FALSE(engine().Drain(absl::ZeroDuration()));
  EXPECT_TRUE(engine().Stats().draining);
  EXPECT_TRUE(absl::IsUnavailable(engine().Submit(MakeRequest(2, Tokens(4), 5))));
  harness().RunUntilIdle();
  harness().ExpectAlone(request);
  EXPECT_TRUE(engine().Drain(absl::ZeroDuration()));
}

TEST_P(EngineTest, ReportsTheTimingOfEachStep) {
  std::vector<StepTiming> timings;
  options_.on_step = [&](const StepTiming& timing) { timings.push_back(timing); };
  harness().runner().set_run_seconds(1e-3, 1e-4);
  RunAndExpectAlone({MakeRequest(1, Tokens(10), 40)});
  ASSERT_EQ(timings.size(), 40u);
  EXPECT_EQ(timings[0].tokens, 10);
  EXPECT_DOUBLE_EQ(timings[0].run_seconds, 2e-3);
  EXPECT_NEAR(timings[39].predicted_seconds, 1.1e-3, 2e-4);
  EXPECT_DOUBLE_EQ(engine().Stats().last_step_seconds, 1.1e-3);
}

}  // namespace
}  // namespace caravan
