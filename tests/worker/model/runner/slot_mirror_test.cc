#include "worker/model/runner/slot_mirror.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <string>

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

RunnerLimits Limits() {
  RunnerLimits limits;
  limits.block_tokens = 4;
  limits.num_blocks = 10;
  limits.max_slots = 3;
  limits.max_batch_tokens = 8;
  limits.max_context_tokens = 14;
  limits.vocab_size = 50;
  return limits;
}

struct Change {
  SlotArray array;
  int32_t slot;
  int32_t offset;
  std::vector<int32_t> words;
};

class SlotMirrorTest : public testing::Test {
 protected:
  absl::Status Apply(const StepPlan& plan) {
    changes_.clear();
    return mirror_.Apply(plan, [this](SlotArray array, int32_t slot, int32_t offset,
                                      std::span<const int32_t> words) {
      changes_.push_back({array, slot, offset, {words.begin(), words.end()}});
    });
  }
  // The words of the one change of an array; empty where there is none.
  std::vector<int32_t> Words(SlotArray array) const {
    for (const Change& change : changes_) {
      if (change.array == array) return change.words;
    }
    return {};
  }

  static StepPlan Begin(int32_t slot, std::vector<int32_t> tokens, std::vector<int32_t> blocks) {
    StepPlan plan;
    const auto count = static_cast<int32_t>(tokens.size());
    plan.setups.push_back({slot, std::move(tokens), count, {}, 0});
    plan.work.push_back(Work(slot, 0, count));
    plan.work[0].new_blocks.push_back({0, std::move(blocks)});
    return plan;
  }
  static StepPlan Next(int32_t slot, int32_t position) {
    StepPlan plan;
    plan.work.push_back(Work(slot, position, 1));
    return plan;
  }
  static SlotWork Work(int32_t slot, int32_t start, int32_t count) {
    SlotWork work;
    work.slot = slot;
    work.start_position = start;
    work.num_tokens = count;
    work.sample = true;
    return work;
  }

  SlotMirror mirror_{Limits()};
  std::vector<Change> changes_;
};

TEST_F(SlotMirrorTest, SendsWhatIsNewAndNothingForADrawnToken) {
  ASSERT_TRUE(Apply(Begin(1, {7, 8, 9}, {4})).ok());
  EXPECT_THAT(Words(SlotArray::kTokens), ElementsAre(7, 8, 9));
  EXPECT_THAT(Words(SlotArray::kBlocks), ElementsAre(4));
  EXPECT_EQ(Words(SlotArray::kSampling).size(), sizeof(SlotSampling) / 4);
  EXPECT_TRUE(Words(SlotArray::kLists).empty());
  EXPECT_EQ(mirror_.prompt_tokens(1), 3);
  ASSERT_TRUE(Apply(Next(1, 3)).ok());  // its id is known on the device alone
  EXPECT_TRUE(changes_.empty());
  StepPlan grown = Next(1, 4);
  grown.work[0].new_blocks.push_back({0, {6}});
  ASSERT_TRUE(Apply(grown).ok());
  ASSERT_EQ(changes_.size(), 1U);
  EXPECT_EQ(changes_[0].offset, 1);
  EXPECT_THAT(changes_[0].words, ElementsAre(6));
}

TEST_F(SlotMirrorTest, SendsReplacedBlocksAndTokensThatTheEngineChose) {
  ASSERT_TRUE(Apply(Begin(0, {7, 8, 9}, {4})).ok());
  ASSERT_TRUE(Apply(Next(0, 3)).ok());
  StepPlan plan = Next(0, 3);
  plan.work[0].token_ids = {11};
  plan.work[0].replaced_blocks.push_back({0, 0, 5});
  ASSERT_TRUE(Apply(plan).ok());
  EXPECT_THAT(Words(SlotArray::kTokens), ElementsAre(11));
  EXPECT_THAT(Words(SlotArray::kBlocks), ElementsAre(5));
  // Positions behind the chosen token are known only if drawn again.
  EXPECT_THAT(std::string(Apply(Next(0, 5)).message()), HasSubstr("of 5 known tokens"));
}

TEST_F(SlotMirrorTest, RefusesPlansThatContradictTheSlots) {
  const auto wrong = [this](const char* words, const std::function<void(StepPlan&)>& change) {
    mirror_.Clear();
    ASSERT_TRUE(Apply(Begin(1, {7, 8, 9}, {4})).ok());
    StepPlan plan = Next(1, 3);
    change(plan);
    const absl::Status status = Apply(plan);
    EXPECT_TRUE(absl::IsInternal(status)) << words;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  };
  wrong("has no sequence", [](StepPlan& p) { p.work[0].slot = 2; });
  wrong("there are 3", [](StepPlan& p) { p.work[0].slot = 3; });
  wrong("there are 3", [](StepPlan& p) { p.released_slots.push_back(-1); });
  wrong("twice", [](StepPlan& p) { p.work.push_back(p.work[0]); });
  wrong("known tokens", [](StepPlan& p) { p.work[0].start_position = 4; });
  wrong("known tokens", [](StepPlan& p) { p.work[0].num_tokens = 0; });
  wrong("9 tokens, at most 8", [](StepPlan& p) { p.work[0].num_tokens = 9; });
  wrong("new block", [](StepPlan& p) { p.work[0].new_blocks.push_back({0, {10}}); });
  wrong("KV group 1", [](StepPlan& p) { p.work[0].new_blocks.push_back({1, {2}}); });
  wrong("at most 4", [](StepPlan& p) { p.work[0].new_blocks.push_back({0, {1, 2, 3, 5}}); });
  wrong("block 5 at 1 of 1", [](StepPlan& p) { p.work[0].replaced_blocks.push_back({0, 1, 5}); });
  wrong("copy of block", [](StepPlan& p) { p.copies.push_back({0, 1, 10}); });
  wrong("token id 50", [](StepPlan& p) { p.work[0].token_ids = {50}; });
  wrong("token ids", [](StepPlan& p) { p.work[0].token_ids = {1, 2}; });
  wrong("15 tokens exceed 14", [](StepPlan& p) {
    p.setups.push_back({0, std::vector<int32_t>(15, 1), 15, {}, 0});
  });
  wrong("has no sequence", [](StepPlan& p) { p.released_slots.push_back(1); });
}

TEST_F(SlotMirrorTest, RefusesPositionsWithoutBlocks) {
  StepPlan plan = Begin(0, {1, 2, 3, 4, 5}, {4});
  EXPECT_THAT(std::string(Apply(plan).message()), HasSubstr("5 positions in 1 blocks of 4"));
}

TEST(SlotSampling, ListsBiasesBadWordsAndStopIds) {
  SlotSetup setup;
  setup.tokens = {1, 2, 3};
  setup.prompt_tokens = 2;
  setup.sample_index = 4;
  setup.sampling.logit_bias = {{9, 0.5F}, {3, 1}, {9, 0.25F}, {99, 1}};
  setup.sampling.bad_words = {{5, 6}, {}, {7}, {8, 99}};
  setup.sampling.stop_token_ids = {2, -1};
  setup.sampling.num_logprobs = 100;
  SlotSampling sampling;
  std::vector<int32_t> lists;
  ASSERT_TRUE(MakeSlotSampling(setup, 50, &sampling, &lists).ok());
  EXPECT_EQ(sampling.num_biases, 2);
  EXPECT_EQ(sampling.num_bad_words, 2);
  EXPECT_EQ(sampling.num_bad_word_ids, 3);
  EXPECT_EQ(sampling.num_stop_ids, 1);
  EXPECT_EQ(sampling.num_logprobs, kMaxTopLogprobs);
  EXPECT_EQ(sampling.prompt_tokens, 2);
  EXPECT_EQ(sampling.sample_index, 4U);
  EXPECT_EQ(static_cast<int64_t>(lists.size()), sampling.list_words());
  EXPECT_THAT(lists, ElementsAre(3, std::bit_cast<int32_t>(1.0F), 9, std::bit_cast<int32_t>(0.75F),
                                 2, 3, 5, 6, 7, 2));
}

TEST(SlotSampling, RefusesListsThatNoSlotHolds) {
  SlotSetup setup;
  setup.sampling.bad_words.assign(kMaxSlotBadWords, std::vector<int32_t>(5, 1));
  SlotSampling sampling;
  std::vector<int32_t> lists;
  EXPECT_TRUE(absl::IsInternal(MakeSlotSampling(setup, 50, &sampling, &lists)));
}

}  // namespace
}  // namespace caravan
