#include "worker/model/runner/slot_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int32_t kVocab = 10;
constexpr float kBanned = -std::numeric_limits<float>::infinity();

SlotSetup MakeSetup(std::vector<int32_t> tokens, int32_t prompt_tokens,
                    SamplingParams sampling = {}) {
  SlotSetup setup;
  setup.tokens = std::move(tokens);
  setup.prompt_tokens = prompt_tokens;
  setup.sampling = std::move(sampling);
  return setup;
}

SlotState MakeSlot(std::vector<int32_t> tokens, int32_t prompt_tokens, SamplingParams sampling) {
  SlotState slot;
  slot.Setup(MakeSetup(std::move(tokens), prompt_tokens, std::move(sampling)), kVocab);
  return slot;
}

// What is added to each token's logit at `position`.
std::map<int32_t, float> Biases(SlotState& slot, int32_t position) {
  std::map<int32_t, float> biases;
  for (const TokenBias& bias : slot.RowFor(position).biases) biases[bias.token_id] += bias.bias;
  return biases;
}

SlotWork Work(int32_t start, int32_t count, std::vector<int32_t> new_blocks) {
  SlotWork work;
  work.start_position = start;
  work.num_tokens = count;
  work.new_blocks.push_back({0, std::move(new_blocks)});
  return work;
}

TEST(SlotState, BansTheLastTokenOfABadWordWhereTheOthersPrecede) {
  SamplingParams sampling;
  sampling.bad_words = {{7}, {1, 2, 3}, {4, 5}, {}};
  SlotState slot = MakeSlot({1, 2}, 2, sampling);
  EXPECT_EQ(Biases(slot, 2), (std::map<int32_t, float>{{7, kBanned}, {3, kBanned}}));
  slot.SetToken(2, 4);
  EXPECT_EQ(Biases(slot, 3), (std::map<int32_t, float>{{7, kBanned}, {5, kBanned}}))
      << "over the border of prompt and output";
  slot.SetToken(3, 1);
  EXPECT_EQ(Biases(slot, 4), (std::map<int32_t, float>{{7, kBanned}}))
      << "a beginning alone bans nothing";
  SlotState one = MakeSlot({2}, 1, sampling);
  EXPECT_EQ(Biases(one, 1).count(3), 0U) << "the history is shorter than the word";
}

TEST(SlotState, BansStopTokensBelowMinTokens) {
  SamplingParams sampling;
  sampling.stop_token_ids = {8, 9};
  sampling.min_tokens = 2;
  SlotState slot = MakeSlot({1, 2, 3}, 3, sampling);
  const std::map<int32_t, float> both = {{8, kBanned}, {9, kBanned}};
  EXPECT_EQ(Biases(slot, 3), both);
  slot.SetToken(3, 5);
  EXPECT_EQ(Biases(slot, 4), both);
  slot.SetToken(4, 5);
  EXPECT_TRUE(Biases(slot, 5).empty()) << "two tokens are generated";
  SlotState resumed = MakeSlot({1, 2, 3, 5, 5}, 3, sampling);
  EXPECT_TRUE(Biases(resumed, 5).empty()) << "resumed output counts";
}

TEST(SlotState, AddsLogitBiasesAndIgnoresIdsOutsideOfTheVocabulary) {
  SamplingParams sampling;
  sampling.logit_bias = {{3, 1.5F}, {3, 0.5F}, {-1, 1}, {kVocab, 1}};
  sampling.bad_words = {{3}, {kVocab + 5}};
  SlotState slot = MakeSlot({1}, 1, sampling);
  EXPECT_EQ(Biases(slot, 1), (std::map<int32_t, float>{{3, kBanned}}));
}

TEST(SlotState, GivesTheTokensBeforeAPositionToPenalties) {
  SamplingParams sampling;
  sampling.repetition_penalty = 1.5F;
  SlotState slot = MakeSlot({1, 2, 2, 6, 2}, 3, sampling);  // 6 and 2 are resumed output
  slot.SetToken(5, 6);
  const SamplingRow row = slot.RowFor(6);
  EXPECT_THAT(std::vector<int32_t>(row.history.begin(), row.history.end()),
              ElementsAre(1, 2, 2, 6, 2, 6));
  EXPECT_EQ(row.history_prompt, 3);
  slot.SetToken(3, 9);  // a rollback of two tokens
  const auto after = slot.RowFor(4).history;
  EXPECT_THAT(std::vector<int32_t>(after.begin(), after.end()), ElementsAre(1, 2, 2, 9));
}

TEST(SlotState, GivesNoHistoryWithoutPenalties) {
  SlotState slot = MakeSlot({1}, 1, {});
  EXPECT_TRUE(slot.RowFor(1).history.empty());
  for (const auto field : {&SamplingParams::repetition_penalty, &SamplingParams::presence_penalty,
                           &SamplingParams::frequency_penalty}) {
    SamplingParams sampling;
    sampling.*field = 0.25F;
    SlotState penalized = MakeSlot({1}, 1, sampling);
    EXPECT_EQ(penalized.RowFor(1).history.size(), 1u);
  }
}

TEST(SlotState, PassesOnTheSamplingParameters) {
  SamplingParams sampling;
  sampling.temperature = 0.7F;
  sampling.top_k = 5;
  sampling.top_p = 0.9F;
  sampling.min_p = 0.1F;
  sampling.repetition_penalty = 1.1F;
  sampling.presence_penalty = 0.2F;
  sampling.frequency_penalty = 0.3F;
  sampling.num_logprobs = 1000;
  sampling.processed_logprobs = true;
  sampling.seed = 1ULL << 60;
  SlotSetup setup = MakeSetup({1, 2}, 2, sampling);
  setup.sample_index = 3;
  SlotState slot;
  slot.Setup(setup, kVocab);
  const SamplingRow row = slot.RowFor(2);
  EXPECT_EQ(row.temperature, 0.7F);
  EXPECT_EQ(row.top_k, 5);
  EXPECT_EQ(row.top_p, 0.9F);
  EXPECT_EQ(row.min_p, 0.1F);
  EXPECT_EQ(row.repetition_penalty, 1.1F);
  EXPECT_EQ(row.presence_penalty, 0.2F);
  EXPECT_EQ(row.frequency_penalty, 0.3F);
  EXPECT_EQ(row.num_logprobs, kMaxTopLogprobs);
  EXPECT_TRUE(row.processed_logprobs);
  EXPECT_EQ(row.seed, 1ULL << 60);
  EXPECT_EQ(row.sample_index, 3U);
  EXPECT_EQ(row.position, 2);
}

TEST(SlotState, AppendsAndReplacesBlocks) {
  SlotState slot = MakeSlot({1, 2, 3, 4, 5}, 5, {});
  ASSERT_TRUE(slot.BeginWork(Work(0, 5, {7, 3}), 10, 4).ok());
  slot.SetToken(5, 6);
  SlotWork next = Work(5, 1, {});
  next.replaced_blocks.push_back({0, 1, 9});
  ASSERT_TRUE(slot.BeginWork(next, 10, 4).ok());
  EXPECT_THAT(std::vector<int32_t>(slot.blocks().begin(), slot.blocks().end()), ElementsAre(7, 9));
}

TEST(SlotState, RefusesWorkThatContradictsItsState) {
  const auto error = [](const SlotWork& work) {
    SlotState slot = MakeSlot({1, 2, 3, 4, 5}, 5, {});
    const absl::Status status = slot.BeginWork(work, 10, 4);
    EXPECT_TRUE(absl::IsInternal(status));
    return std::string(status.message());
  };
  EXPECT_THAT(error(Work(0, 6, {1, 2})), HasSubstr("positions 0 to 6 of 5 known tokens"));
  EXPECT_THAT(error(Work(0, 5, {1})), HasSubstr("5 positions in 1 blocks of 4"));
  EXPECT_THAT(error(Work(-1, 2, {1})), HasSubstr("positions -1"));
  EXPECT_THAT(error(Work(2, 0, {1})), HasSubstr("positions"));
  EXPECT_THAT(error(Work(0, 1, {10})), HasSubstr("out of 10"));
  EXPECT_THAT(error(Work(0, 1, {-1})), HasSubstr("out of 10"));
  SlotWork replaced = Work(0, 1, {1});
  replaced.replaced_blocks.push_back({0, 1, 2});
  EXPECT_THAT(error(replaced), HasSubstr("block 2 at 1 of 1"));
  SlotState empty;
  EXPECT_THAT(std::string(empty.BeginWork(Work(0, 1, {1}), 10, 4).message()),
              HasSubstr("has no sequence"));
}

TEST(SlotState, TakesTheTokensThatItIsTold) {
  SamplingParams sampling;
  sampling.frequency_penalty = 1;
  SlotState slot = MakeSlot({1, 2}, 2, sampling);
  ASSERT_TRUE(slot.BeginWork(Work(0, 2, {0}), 8, 4).ok());
  slot.SetToken(2, 5);  // drawn
  SlotWork work = Work(2, 1, {});
  work.token_ids = {7};  // and chosen
  ASSERT_TRUE(slot.BeginWork(work, 8, 4).ok());
  EXPECT_THAT(slot.tokens(), ElementsAre(1, 2, 7));
  const auto history = slot.RowFor(3).history;
  EXPECT_THAT(std::vector<int32_t>(history.begin(), history.end()), ElementsAre(1, 2, 7));
}

TEST(SlotState, RefusesToldTokensThatCanNotBe) {
  SlotState slot = MakeSlot({1, 2}, 2, {});
  const auto error_of = [&](int32_t start, std::vector<int32_t> ids) {
    SlotWork work = Work(start, 1, {0});
    work.token_ids = std::move(ids);
    return std::string(slot.BeginWork(work, 8, 4).message());
  };
  EXPECT_THAT(error_of(2, {kVocab}), HasSubstr("token id 10 of 10"));
  EXPECT_THAT(error_of(2, {-1}), HasSubstr("token id -1"));
  EXPECT_THAT(error_of(2, {1, 1}), HasSubstr("2 token ids for 1 positions"));
  EXPECT_THAT(error_of(3, {1}), HasSubstr("from 3, behind 2 tokens"));
  EXPECT_THAT(error_of(1, {1}), HasSubstr("2 are the prompt"));
}

// (Lee et al. 2022): decays with each token, never below the least, and starts again.
TEST(SlotState, TopPDecaysSinceTheLastResetToken) {
  SamplingParams sampling;
  sampling.top_p = 0.8F;
  sampling.top_p_decay = 0.5F;
  sampling.top_p_min = 0.15F;
  sampling.top_p_reset_id = 3;
  SlotState slot = MakeSlot({3, 1}, 2, sampling);
  EXPECT_EQ(slot.RowFor(2).top_p, 0.8F);
  slot.SetToken(2, 4);
  EXPECT_FLOAT_EQ(slot.RowFor(3).top_p, 0.4F);
  slot.SetToken(3, 4);
  slot.SetToken(4, 4);
  EXPECT_FLOAT_EQ(slot.RowFor(5).top_p, 0.15F);
  slot.SetToken(5, 3);
  EXPECT_EQ(slot.RowFor(6).top_p, 0.8F);
  slot.SetToken(6, 4);
  EXPECT_FLOAT_EQ(slot.RowFor(7).top_p, 0.4F);
  sampling.top_k = 5;
  EXPECT_EQ(MakeSlot({1, 4, 4}, 1, sampling).RowFor(3).top_p, 0.8F) << "top_k leaves it alone";
}

TEST(SlotState, CountsThePromptForPenaltiesWhereThatIsWanted) {
  SamplingParams sampling;
  sampling.presence_penalty = 1;
  sampling.penalize_prompt = true;
  SlotState slot = MakeSlot({1, 1, 2}, 2, sampling);
  EXPECT_EQ(slot.RowFor(3).history.size(), 3U);
  EXPECT_EQ(slot.RowFor(3).history_prompt, 0);
}

}  // namespace
}  // namespace caravan
