#include "worker/model/runner/step_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using testing::ElementsAre;

SlotWork Work(int32_t slot, int32_t start, int32_t count, bool sample = true) {
  SlotWork work;
  work.slot = slot;
  work.start_position = start;
  work.num_tokens = count;
  work.sample = sample;
  return work;
}

std::vector<int32_t> Slots(const StepLayout& layout) {
  std::vector<int32_t> slots;
  for (const StepRow& row : layout.rows) slots.push_back(row.slot);
  return slots;
}

TEST(StepLayout, PutsDecodesFirstAndDrawsInThePlansOrder) {
  StepPlan plan;
  plan.work = {Work(5, 0, 7), Work(2, 30, 1), Work(9, 4, 3, false), Work(1, 11, 1)};
  const StepLayout layout = LayOutStep(plan);
  EXPECT_THAT(Slots(layout), ElementsAre(2, 1, 5, 9));
  EXPECT_EQ(layout.num_decodes, 2);
  EXPECT_EQ(layout.num_tokens, 12);
  EXPECT_EQ(layout.num_samples, 3);
  EXPECT_EQ(layout.decode_context, 31);
  EXPECT_EQ(layout.prefill_context, 7);
  EXPECT_EQ(layout.rows[2].first_token, 2);
  EXPECT_EQ(layout.rows[3].first_token, 9);
  EXPECT_EQ(layout.rows[3].sample_row, -1);
  ASSERT_EQ(layout.drawn.size(), 3U);
  EXPECT_EQ(layout.drawn[0].slot, 5);
  EXPECT_EQ(layout.drawn[0].sample_row, layout.rows[2].sample_row);
  EXPECT_EQ(layout.drawn[1].slot, 2);
  EXPECT_EQ(layout.drawn[1].sample_row, layout.rows[0].sample_row);
  EXPECT_EQ(layout.drawn[2].slot, 1);
  EXPECT_FALSE(layout.decodes_only());
}

TEST(StepLayout, PadsDecodesWithRowsOfNoSlot) {
  StepPlan plan;
  plan.work = {Work(3, 8, 1), Work(0, 2, 1)};
  StepLayout layout = LayOutStep(plan);
  ASSERT_TRUE(layout.decodes_only());
  PadStep(4, &layout);
  EXPECT_TRUE(layout.decodes_only());
  EXPECT_THAT(Slots(layout), ElementsAre(3, 0, -1, -1));
  EXPECT_EQ(layout.num_tokens, 4);
  EXPECT_EQ(layout.num_samples, 4);
  EXPECT_EQ(layout.rows[3].first_token, 3);
  EXPECT_EQ(layout.rows[3].sample_row, 3);
  EXPECT_EQ(layout.drawn.size(), 2U);
}

TEST(StepLayout, AChunkThatDrawsNothingIsNoDecode) {
  StepPlan plan;
  plan.work = {Work(3, 8, 1, false)};
  EXPECT_FALSE(LayOutStep(plan).decodes_only());
}

TEST(DecodeBuckets, GrowToTheGreatestNumberOfRows) {
  EXPECT_THAT(DecodeBuckets(1), ElementsAre(1));
  EXPECT_THAT(DecodeBuckets(8), ElementsAre(1, 2, 4, 8));
  EXPECT_THAT(DecodeBuckets(100), ElementsAre(1, 2, 4, 8, 16, 32, 48, 64, 96, 100));
  for (const int32_t most : {1, 7, 256, 3000}) {
    const std::vector<int32_t> buckets = DecodeBuckets(most);
    EXPECT_EQ(buckets.back(), most);
    EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
    EXPECT_EQ(std::adjacent_find(buckets.begin(), buckets.end()), buckets.end());
  }
}

}  // namespace
}  // namespace caravan
