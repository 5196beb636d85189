#include "worker/engine/beam_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace caravan {
namespace {

constexpr int32_t kEnd = 9;

std::shared_ptr<Request> MakeRequest(int32_t width, int32_t max_tokens) {
  auto request = std::make_shared<Request>();
  request->prompt = {1, 2, 3};
  request->beams.width = width;
  request->sampling.max_tokens = max_tokens;
  request->sampling.stop_token_ids = {kEnd};
  return request;
}

std::vector<int32_t> IdsOf(const BeamResult& result) {
  std::vector<int32_t> ids;
  for (const EmittedToken& token : result.tokens) ids.push_back(token.token_id);
  return ids;
}

using Choices = std::vector<std::pair<int32_t, int32_t>>;
Choices PairsOf(const std::vector<BeamChoice>& choices) {
  Choices pairs;
  for (const BeamChoice& choice : choices) pairs.emplace_back(choice.parent, choice.token_id);
  return pairs;
}

TEST(BeamSearch, TheBestContinuationsOfAllBeamsGoOn) {
  BeamSearch search(MakeRequest(2, 2), 100);
  EXPECT_EQ(PairsOf(search.Advance({{{4, -1.0F}, {5, -2.0F}}})), (Choices{{0, 4}, {0, 5}}));
  // -1 - 3 = -4, -1 - 4 = -5, -2 - 0.5 = -2.5, -2 - 2.5 = -4.5
  search.Advance({{{6, -3.0F}, {7, -4.0F}}, {{6, -0.5F}, {8, -2.5F}}});
  ASSERT_TRUE(search.ended());
  const std::vector<BeamResult> results = search.Results();
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(IdsOf(results[0]), (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(results[0].cumulative_logprob, -2.5F);
  EXPECT_EQ(results[0].tokens[1].logprob, -0.5F);
  EXPECT_EQ(IdsOf(results[1]), (std::vector<int32_t>{4, 6}));
  EXPECT_EQ(results[1].finish, FinishReason::kLength);
}

TEST(BeamSearch, AmongEqualsTheEarlierBeamThenTheBetterPlaceGoesOn) {
  BeamSearch search(MakeRequest(3, 5), 100);
  search.Advance({{{4, -1.0F}, {5, -1.0F}, {6, -1.0F}}});
  const BeamCandidates same = {{7, -1.0F}, {8, -1.0F}};
  EXPECT_EQ(PairsOf(search.Advance({same, same, same})), (Choices{{0, 7}, {0, 8}, {1, 7}}));
}

TEST(BeamSearch, OnlyTheFirstCandidatesOfABeamAreOffered) {
  BeamSearch search(MakeRequest(2, 5), 100);
  search.Advance({{{4, -1.0F}, {5, -2.0F}}});
  // Three of the first beam would be the best.
  EXPECT_EQ(PairsOf(search.Advance({{{6, -0.1F}, {7, -0.2F}, {8, -0.3F}}, {{6, -9.0F}}})),
            (Choices{{0, 6}, {0, 7}}));
}

TEST(BeamSearch, AFinishedBeamKeepsItsPlaceByItsScoreAlone) {
  BeamSearch search(MakeRequest(2, 5), 100);
  EXPECT_EQ(PairsOf(search.Advance({{{kEnd, -1.0F}, {5, -2.0F}}})), (Choices{{0, 5}}));
  EXPECT_EQ(search.num_live(), 1);
  EXPECT_EQ(PairsOf(search.Advance({{{6, -0.5F}, {7, -4.0F}}})), (Choices{{0, 6}}));
  search.Advance({{{kEnd, -0.25F}, {7, -4.0F}}});
  ASSERT_TRUE(search.ended());
  const std::vector<BeamResult> results = search.Results();
  EXPECT_EQ(IdsOf(results[0]), (std::vector<int32_t>{kEnd}));
  EXPECT_EQ(results[0].finish, FinishReason::kStopToken);
  EXPECT_EQ(IdsOf(results[1]), (std::vector<int32_t>{5, 6, kEnd}));
  EXPECT_EQ(results[1].cumulative_logprob, -2.75F);
}

TEST(BeamSearch, AFinishedBeamCanLoseItsPlace) {
  BeamSearch search(MakeRequest(2, 5), 100);
  search.Advance({{{4, -1.0F}, {kEnd, -8.0F}}});
  EXPECT_EQ(PairsOf(search.Advance({{{6, -0.5F}, {7, -1.0F}}})), (Choices{{0, 6}, {0, 7}}));
  EXPECT_EQ(search.num_live(), 2);
}

TEST(BeamSearch, TheLengthPenaltyDividesByTheLengthOfPromptAndOutput) {
  auto request = MakeRequest(2, 2);
  request->beams.length_penalty = 2;
  BeamSearch search(request, 100);
  // Finished at length 4: -4 / 16. Going on at length 5: -5.5 / 25 and -7 / 25.
  search.Advance({{{5, -3.5F}, {kEnd, -4.0F}}});
  search.Advance({{{6, -2.0F}, {7, -3.5F}}});
  ASSERT_TRUE(search.ended());
  const std::vector<BeamResult> results = search.Results();
  EXPECT_EQ(IdsOf(results[0]), (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(results[0].cumulative_logprob, -5.5F);  // without the penalty
  EXPECT_EQ(IdsOf(results[1]), (std::vector<int32_t>{kEnd}));
}

TEST(BeamSearch, TheDiversityRateIsAddedForEachPlace) {
  auto request = MakeRequest(2, 5);
  request->beams.diversity_rate = 3;
  BeamSearch search(request, 100);
  // -1 + 0 and -3 + 3: the second is ahead.
  EXPECT_EQ(PairsOf(search.Advance({{{4, -1.0F}, {5, -3.0F}}})), (Choices{{0, 5}, {0, 4}}));
}

TEST(BeamSearch, MinTokensLetAnEarlyStopTokenPass) {
  auto request = MakeRequest(2, 5);
  request->sampling.min_tokens = 1;
  BeamSearch search(request, 100);
  EXPECT_EQ(PairsOf(search.Advance({{{kEnd, -1.0F}, {5, -3.0F}}})), (Choices{{0, kEnd}, {0, 5}}));
}

TEST(BeamSearch, AStopSequenceMayBeginInThePrompt) {
  auto request = MakeRequest(2, 5);
  request->sampling.stop_sequences = {{3, 4}};
  BeamSearch search(request, 100);
  EXPECT_EQ(PairsOf(search.Advance({{{4, -1.0F}, {5, -3.0F}}})), (Choices{{0, 5}}));
  search.Advance({{{4, -1.0F}, {kEnd, -3.0F}}});  // 5, 4 is none
  EXPECT_EQ(search.num_live(), 1);
}

TEST(BeamSearch, EndsWhereTheContextIsFull) {
  BeamSearch search(MakeRequest(2, 50), 4);
  search.Advance({{{4, -1.0F}, {5, -3.0F}}});
  ASSERT_TRUE(search.ended());
  EXPECT_EQ(search.Results()[1].finish, FinishReason::kLength);
}

TEST(BeamSearch, ASmallVocabularyMakesFewerBeams) {
  BeamSearch search(MakeRequest(4, 1), 100);
  search.Advance({{{4, -1.0F}, {5, -3.0F}}});
  const std::vector<BeamResult> results = search.Results();
  ASSERT_EQ(results.size(), 4u);
  EXPECT_EQ(results[1].tokens.size(), 1u);
  EXPECT_TRUE(results[2].tokens.empty());
  EXPECT_EQ(results[2].cumulative_logprob, -std::numeric_limits<float>::infinity());
}

TEST(BeamSearch, EndsWhereNoTokenIsPossible) {
  BeamSearch search(MakeRequest(2, 5), 100);
  search.Advance({{{4, -1.0F}, {5, -3.0F}}});
  EXPECT_TRUE(search.Advance({{}, {}}).empty());
  ASSERT_TRUE(search.ended());
  EXPECT_EQ(IdsOf(search.Results()[0]), (std::vector<int32_t>{4}));
  EXPECT_EQ(search.Results()[0].finish, FinishReason::kLength);
}

TEST(BeamSearch, ListsAsManyTopLogprobsAsAreWanted) {
  auto request = MakeRequest(3, 1);
  request->sampling.num_logprobs = 2;
  BeamSearch search(request, 100);
  search.Advance({{{4, -1.0F}, {5, -2.0F}, {6, -3.0F}}});
  const BeamResult result = search.Results()[2];
  EXPECT_EQ(result.tokens[0].token_id, 6);
  EXPECT_EQ(result.tokens[0].top_logprobs, (BeamCandidates{{4, -1.0F}, {5, -2.0F}}));
}

TEST(BeamSampling, AsksForTheProcessedDistributionAndDrawsCheaply) {
  auto request = MakeRequest(3, 1);
  request->sampling.temperature = 0;
  request->sampling.repetition_penalty = 1.5F;
  const SamplingParams sampling = BeamSampling(*request);
  EXPECT_EQ(sampling.num_logprobs, 3);
  EXPECT_TRUE(sampling.processed_logprobs);
  EXPECT_EQ(sampling.temperature, 1);
  EXPECT_EQ(sampling.top_k, 1);
  EXPECT_EQ(sampling.repetition_penalty, 1.5F);
  request->beams.width = 1;
  EXPECT_EQ(BeamSampling(*request).num_logprobs, -1);
}

TEST(MaxBeamLength, IsWhatTheBlocksHoldBehindASharedPrompt) {
  RunnerLimits limits;
  limits.block_tokens = 4;
  limits.num_blocks = 20;
  limits.max_context_tokens = 1000;
  // 2 shared blocks, 2 for copies, 4 for each of 4 beams; the last token needs no KV.
  EXPECT_EQ(MaxBeamLength(limits, 11, 4), (2 + 4) * 4 + 1);
  limits.max_context_tokens = 15;
  EXPECT_EQ(MaxBeamLength(limits, 11, 4), 15);
  limits.num_blocks = 3;
  EXPECT_LE(MaxBeamLength(limits, 11, 4), 11);
}

}  // namespace
}  // namespace caravan
