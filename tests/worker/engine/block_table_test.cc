#include "worker/engine/block_table.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace caravan {
namespace {

constexpr int32_t kBlockTokens = 4;

std::vector<int32_t> Tokens(int32_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

class BlockTableTest : public ::testing::Test {
 protected:
  // A table whose first `count` positions were computed.
  void Fill(BlockTable& table, int32_t count) {
    table.Prepare(pool_, 0, count, changes_);
    table.Publish(pool_, root_, Tokens(count), count);
  }
  std::vector<int32_t> Blocks(const BlockTable& table) {
    return {table.blocks().begin(), table.blocks().end()};
  }
  void Check() {
    pool_.CheckInvariants(std::vector<std::span<const int32_t>>{a_.blocks(), b_.blocks()});
  }

  BlockPool pool_{8};
  BlockHash root_ = RootHash(0, 0);
  TableChanges changes_;
  BlockTable a_{kBlockTokens};
  BlockTable b_{kBlockTokens};
};

TEST_F(BlockTableTest, GrowsByWholeBlocksAndTellsOfEachOnce) {
  EXPECT_EQ(a_.BlocksToPrepare(pool_, 0, 5), 2);
  a_.Prepare(pool_, 0, 5, changes_);
  EXPECT_EQ(a_.TakeNew(), Blocks(a_));
  EXPECT_EQ(a_.BlocksToPrepare(pool_, 5, 8), 0);
  a_.Prepare(pool_, 5, 9, changes_);
  EXPECT_EQ(a_.TakeNew(), std::vector<int32_t>{a_.blocks()[2]});
  EXPECT_EQ(a_.TakeNew(), std::vector<int32_t>());
  Check();
}

TEST_F(BlockTableTest, MatchesTheLongestPrefixOfFullBlocks) {
  Fill(a_, 11);
  std::vector<int32_t> tokens = Tokens(12);
  EXPECT_EQ(b_.Match(pool_, root_, tokens), 8);
  EXPECT_EQ(Blocks(b_), std::vector<int32_t>(a_.blocks().begin(), a_.blocks().begin() + 2));
  Check();
  b_.Release(pool_);
  tokens[5] = 0;
  EXPECT_EQ(b_.Match(pool_, root_, tokens), 4);
  b_.Release(pool_);
  EXPECT_EQ(b_.Match(pool_, RootHash(1, 0), Tokens(12)), 0);
}

TEST_F(BlockTableTest, PublishesOnlyWhatIsComputedAndKnown) {
  a_.Prepare(pool_, 0, 12, changes_);
  a_.Publish(pool_, root_, Tokens(12), 7);
  EXPECT_EQ(b_.Match(pool_, root_, Tokens(12)), 4);
  b_.Release(pool_);
  a_.Publish(pool_, root_, Tokens(11), 12);
  EXPECT_EQ(b_.Match(pool_, root_, Tokens(12)), 8);
}

TEST_F(BlockTableTest, CopiesTheSharedBlockThatItWrites) {
  Fill(a_, 6);
  b_.Fork(pool_, a_, 6);
  EXPECT_EQ(Blocks(a_), Blocks(b_));
  EXPECT_EQ(b_.BlocksToPrepare(pool_, 6, 7), 1);
  b_.Prepare(pool_, 6, 7, changes_);
  ASSERT_EQ(changes_.copies.size(), 1u);
  EXPECT_EQ(changes_.copies[0].from, a_.blocks()[1]);
  EXPECT_EQ(changes_.copies[0].to, b_.blocks()[1]);
  EXPECT_EQ(a_.blocks()[0], b_.blocks()[0]);
  // The table was not told of yet: the copy goes out as a new block, not as a replaced one.
  EXPECT_TRUE(changes_.replaced.empty());
  EXPECT_EQ(b_.TakeNew(), Blocks(b_));
  // The source stays held until the step is complete.
  ASSERT_EQ(changes_.sources, std::vector<int32_t>{a_.blocks()[1]});
  pool_.Release(changes_.sources[0]);
  Check();
  EXPECT_EQ(a_.BlocksToPrepare(pool_, 6, 7), 0) << "the last holder writes in place";
}

TEST_F(BlockTableTest, TellsOfAReplacedBlockWhereTheRunnerKnewTheOldOne) {
  Fill(a_, 6);
  a_.TakeNew();
  b_.Fork(pool_, a_, 6);
  a_.Prepare(pool_, 6, 7, changes_);
  ASSERT_EQ(changes_.replaced.size(), 1u);
  EXPECT_EQ(changes_.replaced[0].index, 1);
  EXPECT_EQ(changes_.replaced[0].block, a_.blocks()[1]);
  EXPECT_NE(a_.blocks()[1], b_.blocks()[1]);
  EXPECT_TRUE(a_.TakeNew().empty());
}

TEST_F(BlockTableTest, ReplacesWithoutACopyWhereAllOfTheBlockIsWritten) {
  Fill(a_, 8);
  EXPECT_EQ(b_.Match(pool_, root_, Tokens(8)), 8);
  b_.Prepare(pool_, 4, 8, changes_);
  EXPECT_TRUE(changes_.copies.empty());
  EXPECT_EQ(b_.blocks()[0], a_.blocks()[0]);
  EXPECT_NE(b_.blocks()[1], a_.blocks()[1]);
}

TEST_F(BlockTableTest, ReleasesTheTailFirstSoThatItIsEvictedFirst) {
  Fill(a_, 32);
  a_.Release(pool_);
  EXPECT_EQ(pool_.cached_blocks(), 8);
  pool_.Allocate();
  EXPECT_EQ(b_.Match(pool_, root_, Tokens(32)), 28);
}

}  // namespace
}  // namespace caravan
