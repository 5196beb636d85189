#include "worker/engine/block_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace caravan {
namespace {

BlockHash Content(uint64_t n) { return {n, ~n}; }

class BlockPoolTest : public ::testing::Test {
 protected:
  int32_t Take() {
    const auto block = pool_.Allocate();
    EXPECT_TRUE(block.has_value());
    return block.value_or(0);
  }
  int32_t TakePublished(uint64_t content) {
    const int32_t block = Take();
    pool_.Publish(block, Content(content));
    return block;
  }
  void ExpectCounts(int32_t free, int32_t used, int32_t cached) {
    EXPECT_EQ(pool_.free_blocks(), free);
    EXPECT_EQ(pool_.used_blocks(), used);
    EXPECT_EQ(pool_.cached_blocks(), cached);
  }
  void Check(const std::vector<std::vector<int32_t>>& tables) {
    pool_.CheckInvariants(std::vector<std::span<const int32_t>>(tables.begin(), tables.end()));
  }

  BlockPool pool_{3};
};

TEST_F(BlockPoolTest, HandsOutEachBlockOnceAndThenNone) {
  const std::vector<int32_t> table = {Take(), Take(), Take()};
  Check({table});
  EXPECT_EQ(pool_.Allocate(), std::nullopt);
  ExpectCounts(0, 3, 0);
  for (int32_t block : table) pool_.Release(block);
  ExpectCounts(3, 0, 0);
  Check({});
}

TEST_F(BlockPoolTest, KeepsAPublishedBlockAfterItsLastHolderLeft) {
  const int32_t block = TakePublished(7);
  pool_.Release(block);
  ExpectCounts(2, 0, 1);
  EXPECT_EQ(pool_.Acquire(Content(7)), block);
  ExpectCounts(2, 1, 0);
  EXPECT_EQ(pool_.Acquire(Content(8)), std::nullopt);
  Check({{block}});
}

TEST_F(BlockPoolTest, EachHolderOfASharedBlockMayPublishIt) {
  const int32_t block = TakePublished(7);
  pool_.Retain(block);
  pool_.Publish(block, Content(7));
  Check({{block}, {block}});
  pool_.Release(block);
  pool_.Release(block);
  ExpectCounts(2, 0, 1);
}

TEST_F(BlockPoolTest, SharesABlockUntilItsLastHolderLeaves) {
  const int32_t block = TakePublished(7);
  EXPECT_EQ(pool_.Acquire(Content(7)), block);
  pool_.Retain(block);
  Check({{block}, {block}, {block}});
  pool_.Release(block);
  pool_.Release(block);
  ExpectCounts(2, 1, 0);
  pool_.Release(block);
  ExpectCounts(2, 0, 1);
}

TEST_F(BlockPoolTest, EvictsTheCachedBlockThatWasReleasedLongestAgo) {
  const int32_t a = TakePublished(1);
  const int32_t b = TakePublished(2);
  const int32_t c = TakePublished(3);
  pool_.Release(b);
  pool_.Release(a);
  pool_.Release(c);
  // Using b again makes it the newest.
  pool_.Release(*pool_.Acquire(Content(2)));
  EXPECT_EQ(Take(), a);
  EXPECT_EQ(pool_.Acquire(Content(1)), std::nullopt);
  EXPECT_EQ(Take(), c);
  EXPECT_EQ(Take(), b);
  Check({{a, b, c}});
}

TEST_F(BlockPoolTest, PrefersAFreeBlockToEviction) {
  pool_.Release(TakePublished(1));
  Take();
  Take();
  ExpectCounts(0, 2, 1);
  EXPECT_TRUE(pool_.Acquire(Content(1)).has_value());
}

TEST_F(BlockPoolTest, KeepsOneBlockOfEachContent) {
  const int32_t first = TakePublished(7);
  const int32_t second = TakePublished(7);
  EXPECT_FALSE(pool_.Writable(first));
  EXPECT_TRUE(pool_.Writable(second));
  pool_.Release(first);
  pool_.Release(second);
  ExpectCounts(2, 0, 1);
  EXPECT_EQ(pool_.Acquire(Content(7)), first);
}

TEST_F(BlockPoolTest, OnlyAnUnsharedUnpublishedBlockIsWritable) {
  const int32_t block = Take();
  EXPECT_TRUE(pool_.Writable(block));
  pool_.Retain(block);
  EXPECT_FALSE(pool_.Writable(block));
  pool_.Release(block);
  pool_.Publish(block, Content(7));
  EXPECT_FALSE(pool_.Writable(block));
}

TEST_F(BlockPoolTest, ForgetsEverythingOnReset) {
  pool_.Release(TakePublished(1));
  Take();
  pool_.Reset();
  ExpectCounts(3, 0, 0);
  EXPECT_EQ(pool_.Acquire(Content(1)), std::nullopt);
  Check({});
}

using BlockPoolDeathTest = BlockPoolTest;

TEST_F(BlockPoolDeathTest, DiesWhereTheTablesDoNotExplainTheReferences) {
  const int32_t block = Take();
  EXPECT_DEATH(Check({}), "tables=0 references=1");
  EXPECT_DEATH(Check({{block}, {block}}), "tables=2 references=1");
  pool_.Release(block);
  EXPECT_DEATH(pool_.Release(block), "check failed");
}

}  // namespace
}  // namespace caravan
