// Beams in the engine, on a runner that finds wrong blocks and wrong tokens.
#include <gtest/gtest.h>

#include "tests/worker/engine/engine_harness.h"

namespace caravan {
namespace {

class EngineBeamsTest : public ::testing::TestWithParam<int32_t> {
 protected:
  EngineBeamsTest() {
    options_.pipelined = GetParam() > 0;
    options_.pipeline_depth = std::max(1, GetParam());
    limits_.block_tokens = 4;
    limits_.num_blocks = 64;
    limits_.max_slots = 8;
    limits_.max_batch_tokens = 64;
    limits_.max_context_tokens = 128;
    limits_.vocab_size = 100;
    limits_.max_steps_in_flight = 2;
  }

  EngineHarness& harness() {
    if (!harness_) harness_ = std::make_unique<EngineHarness>(options_, limits_);
    return *harness_;
  }

  static Request Search(RequestKey key, std::vector<int32_t> prompt, int32_t width,
                        int32_t max_tokens) {
    Request request = MakeRequest(key, std::move(prompt), max_tokens);
    request.beams.width = width;
    return request;
  }

  void RunAndExpectBeams(const std::vector<Request>& requests) {
    for (const Request& request : requests) ASSERT_TRUE(harness().Submit(request).ok());
    harness().RunUntilIdle();
    for (const Request& request : requests) harness().ExpectBeamsAlone(request);
    harness().ExpectEmpty();
  }

  EngineOptions options_;
  RunnerLimits limits_;
  std::unique_ptr<EngineHarness> harness_;
};

INSTANTIATE_TEST_SUITE_P(Loops, EngineBeamsTest, ::testing::Values(0, 1, 2), [](const auto& info) {
  return info.param == 0 ? std::string("Simple") : "Pipelined" + std::to_string(info.param);
});

TEST_P(EngineBeamsTest, AnswersTheBeamsOfAPlainSearch) {
  RunAndExpectBeams({Search(1, Tokens(10), 4, 12)});
  EXPECT_EQ(harness().OutputOf(1, 3).tokens.size(), 12u);
  EXPECT_EQ(harness().OutputOf(1, 0).events, 1);
}

// A look after n steps shows what a search for n tokens would end with.
TEST_P(EngineBeamsTest, ShowsItsBeamsWheneverTheyAndTheOffsetAreAMultiple) {
  limits_.num_blocks = 26;
  limits_.max_slots = 16;
  std::vector<Request> requests;
  for (RequestKey key = 1; key <= 3; ++key) {
    requests.push_back(Search(key, Tokens(9, static_cast<int32_t>(key)), 4, 20));
    requests.back().beams.snapshot_interval = 5;
    requests.back().beams.snapshot_offset = 9;
    for (int32_t id = 0; id < 100; id += 9) requests.back().sampling.stop_token_ids.push_back(id);
  }
  RunAndExpectBeams(requests);
  for (const Request& request : requests) {
    int32_t steps = 1;
    for (const std::vector<Output>& look : harness().LooksAt(request.key)) {
      Request until = request;
      until.sampling.max_tokens = steps;
      const std::vector<Output> expected = harness().BeamsAlone(until);
      ASSERT_EQ(look.size(), expected.size());
      for (size_t i = 0; i < look.size(); ++i) {
        EXPECT_EQ(look[i].tokens, expected[i].tokens) << steps << " steps, beam " << i;
        EXPECT_EQ(look[i].logprobs, expected[i].logprobs);
        EXPECT_EQ(look[i].cumulative_logprob, expected[i].cumulative_logprob);
      }
      steps += 5;
    }
    EXPECT_GT(steps, 6) << "several looks";
  }
}

TEST_P(EngineBeamsTest, ShowsNoBeamsUnasked) {
  RunAndExpectBeams({Search(1, Tokens(10), 4, 12)});
  EXPECT_TRUE(harness().LooksAt(1).empty());
}

TEST_P(EngineBeamsTest, EachWidthEndsAtStopTokens) {
  std::vector<Request> requests;
  for (int32_t width = 2; width <= 8; ++width) {
    requests.push_back(Search(static_cast<RequestKey>(width), Tokens(5, width), width, 30));
    for (int32_t id = 0; id < 100; id += 7) requests.back().sampling.stop_token_ids.push_back(id);
  }
  RunAndExpectBeams(requests);
}

TEST_P(EngineBeamsTest, TheBeamsShareThePromptsBlocks) {
  const Request request = Search(1, Tokens(40), 4, 3);
  ASSERT_TRUE(harness().Submit(request).ok());
  int32_t most = 0;
  while (harness().engine().StepOnce()) {
    most = std::max(most, harness().engine().Stats().used_blocks);
  }
  // 10 of the prompt and at most one behind it for each beam.
  EXPECT_GT(most, 10);
  EXPECT_LE(most, 14);
  harness().ExpectBeamsAlone(request);
  harness().ExpectEmpty();
}

TEST_P(EngineBeamsTest, OthersAreNotHeldUpByASearch) {
  std::vector<Request> others;
  for (RequestKey key = 10; key < 14; ++key) {
    others.push_back(MakeRequest(key, Tokens(7, static_cast<int32_t>(key)), 20));
    ASSERT_TRUE(harness().Submit(others.back()).ok());
  }
  RunAndExpectBeams({Search(1, Tokens(6), 3, 20)});
  for (const Request& request : others) harness().ExpectAlone(request);
  EXPECT_EQ(harness().runner().max_in_flight(), std::max(1, GetParam()));
}

TEST_P(EngineBeamsTest, ASearchThatIsPreemptedGoesOnAsIfItHadNotBeen) {
  limits_.num_blocks = 26;
  limits_.max_slots = 16;
  options_.max_prefill_chunk_tokens = 3;
  std::vector<Request> requests;
  for (RequestKey key = 1; key <= 3; ++key) {
    requests.push_back(Search(key, Tokens(9, static_cast<int32_t>(key)), 4, 20));
  }
  RunAndExpectBeams(requests);
  EXPECT_GT(harness().engine().Stats().preemptions, 0u);
}

// The blocks that a preempted search's beams share were published for the cache before their first
// beam had computed them again: another request of that prompt read nothing. It takes a request
// that comes in these few steps, so many are tried.
TEST_P(EngineBeamsTest, BlocksToBeComputedAgainAreNotInTheCacheBefore) {
  limits_.max_slots = 16;
  options_.max_prefill_chunk_tokens = 1;
  uint64_t preemptions = 0;
  for (int32_t blocks = 12; blocks < 30; ++blocks) {
    limits_.num_blocks = blocks;
    harness_.reset();
    std::vector<Request> searches;
    std::vector<Request> others;
    for (RequestKey key = 1; key <= 2; ++key) {
      searches.push_back(Search(key, Tokens(16, static_cast<int32_t>(key)), 3, 24));
      ASSERT_TRUE(harness().Submit(searches.back()).ok());
    }
    for (RequestKey key = 10; key < 90; ++key) {
      others.push_back(MakeRequest(key, Tokens(17, static_cast<int32_t>(key % 7 + 1)), 2));
      others.back().priority = -1;
      ASSERT_TRUE(harness().Submit(others.back()).ok());
      for (int32_t i = 0; i < 3; ++i) harness().engine().StepOnce();
    }
    harness().RunUntilIdle();
    for (const Request& request : searches) harness().ExpectBeamsAlone(request);
    for (const Request& request : others) harness().ExpectAlone(request);
    preemptions += harness().engine().Stats().preemptions;
    harness().ExpectEmpty();
  }
  EXPECT_GT(preemptions, 0u);
}

TEST_P(EngineBeamsTest, ACancelledSearchLeavesNothing) {
  ASSERT_TRUE(harness().Submit(Search(1, Tokens(10), 4, 100)).ok());
  for (int32_t i = 0; i < 8; ++i) harness().engine().StepOnce();
  EXPECT_GT(harness().engine().Stats().used_blocks, 4);
  harness().engine().Cancel(1);
  harness().RunUntilIdle();
  for (int32_t beam = 0; beam < 4; ++beam) {
    EXPECT_EQ(harness().OutputOf(1, beam).finish, FinishReason::kCancelled);
    EXPECT_TRUE(harness().OutputOf(1, beam).tokens.empty());
  }
  harness().ExpectEmpty();
}

TEST_P(EngineBeamsTest, ALostRankEndsASearchAndLeavesNothing) {
  ASSERT_TRUE(harness().Submit(Search(1, Tokens(10), 4, 100)).ok());
  for (int32_t i = 0; i < 8; ++i) harness().engine().StepOnce();
  harness().runner().Fail(absl::UnavailableError("rank 1 is gone"));
  harness().RunUntilIdle();
  EXPECT_EQ(harness().OutputOf(1, 3).finish, FinishReason::kError);
  RunAndExpectBeams({Search(2, Tokens(10), 4, 10)});
}

// It used to end as it was, with FinishReason::kLength.
TEST_P(EngineBeamsTest, ASearchWhoseLogitsAreNoNumbersFailsAlone) {
  const Request damaged = Search(1, Tokens(10), 4, 100);
  const Request other = Search(2, Tokens(5, 30), 4, 3);
  const int32_t token = harness().BeamsAlone(damaged)[0].tokens[4];
  for (const Output& beam : harness().BeamsAlone(other)) {
    ASSERT_EQ(std::count(beam.tokens.begin(), beam.tokens.end(), token), 0);
  }
  harness().runner().DamageAfter(token);
  ASSERT_TRUE(harness().Submit(damaged).ok());
  RunAndExpectBeams({other});
  for (int32_t beam = 0; beam < 4; ++beam) {
    const Output& output = harness().OutputOf(1, beam);
    EXPECT_EQ(output.finish, FinishReason::kError);
    EXPECT_TRUE(absl::IsInternal(output.status)) << output.status;
    EXPECT_TRUE(output.tokens.empty());
  }
}

TEST_P(EngineBeamsTest, BeamsThatFitOnlyAloneStillComeToTheirEnd) {
  limits_.num_blocks = 12;
  RunAndExpectBeams({Search(1, Tokens(3), 5, 100), Search(2, Tokens(5), 4, 100)});
  // Nothing is shared of a prompt of 3: 2 blocks for each of 5 beams, 2 to copy.
  EXPECT_EQ(harness().OutputOf(1, 0).tokens.size(), 2u * 4 + 1 - 3);
}

TEST_P(EngineBeamsTest, RefusesWhatCanNeverRun) {
  const absl::Status slots = harness().Submit(Search(1, Tokens(3), 9, 10));
  EXPECT_TRUE(absl::IsInvalidArgument(slots)) << slots;
  EXPECT_NE(slots.message().find("at most 8 sequences"), std::string::npos) << slots;
  limits_.num_blocks = 5;
  harness_.reset();
  const absl::Status blocks = harness().Submit(Search(1, Tokens(7), 4, 10));
  EXPECT_TRUE(absl::IsInvalidArgument(blocks)) << blocks;
  EXPECT_NE(blocks.message().find("5 KV blocks"), std::string::npos) << blocks;
}

}  // namespace
}  // namespace caravan
