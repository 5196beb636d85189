#include "gateway/routing.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace caravan {
namespace {

constexpr int kBlockTokens = 16;

std::vector<uint64_t> Prompt(int first, int num_blocks, uint64_t salt = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(num_blocks) * kBlockTokens);
  std::iota(ids.begin(), ids.end(), first);
  return HashPromptBlocks(ids, kBlockTokens, salt);
}

TEST(HashPromptBlocks, ChainsFullBlocksAndKeepsSaltsApart) {
  std::vector<int32_t> ids(40, 7);
  const std::vector<uint64_t> hashes = HashPromptBlocks(ids, kBlockTokens, 0);
  ASSERT_EQ(hashes.size(), 2u);     // the last eight ids fill no block
  EXPECT_NE(hashes[0], hashes[1]);  // equal ids, but the second stands for both blocks
  ids[0] = 8;
  EXPECT_NE(HashPromptBlocks(ids, kBlockTokens, 0)[1], hashes[1]);
  ids[0] = 7;
  EXPECT_NE(HashPromptBlocks(ids, kBlockTokens, 1)[0], hashes[0]);
}

TEST(PrefixRouter, SendsAPromptWhereItsPrefixWasSent) {
  PrefixRouter router(1000);
  router.Record(1, Prompt(0, 20));
  const std::vector<uint64_t> longer = Prompt(0, 30);
  EXPECT_EQ(router.Choose(longer, kBlockTokens, {{{0, 0}, {1, 0}}}), 1);
  EXPECT_EQ(router.Choose(longer, kBlockTokens, {{{0, 0}, {1, 2}}}), 1);
}

TEST(PrefixRouter, PrefersTheIdleReplicaWhenTheCachedOneIsTooBusy) {
  PrefixRouter router(1000);
  router.Record(1, Prompt(0, 20));  // saves 320 tokens: less than three requests' worth
  EXPECT_EQ(router.Choose(Prompt(0, 20), kBlockTokens, {{{0, 0}, {1, 3}}}), 0);
}

TEST(PrefixRouter, TakesTheLeastLoadedForAnUnknownPrompt) {
  PrefixRouter router(1000);
  EXPECT_EQ(router.Choose(Prompt(5, 3), kBlockTokens, {{{0, 4}, {1, 2}, {2, 9}}}), 1);
}

TEST(PrefixRouter, LetsEqualReplicasTakeTurns) {
  PrefixRouter router(1000);
  std::vector<int> counts(3);
  for (int i = 0; i < 9; ++i) {
    ++counts[router.Choose({}, kBlockTokens, {{{0, 0}, {1, 0}, {2, 0}}})];
  }
  EXPECT_EQ(counts, std::vector<int>({3, 3, 3}));
}

TEST(PrefixRouter, ForgetsTheLeastRecentlyUsedBlocksLastOnesFirst) {
  PrefixRouter router(10);
  router.Record(0, Prompt(0, 6));
  router.Record(0, Prompt(1000, 6));
  EXPECT_EQ(router.NumCachedBlocks(0, Prompt(1000, 6)), 6u);
  EXPECT_EQ(router.NumCachedBlocks(0, Prompt(0, 6)), 4u);  // its beginning is what remains
}

TEST(PrefixRouter, ForgetsAReplicaWhoseCacheIsGone) {
  PrefixRouter router(1000);
  router.Record(0, Prompt(0, 6));
  router.Forget(0);
  EXPECT_EQ(router.NumCachedBlocks(0, Prompt(0, 6)), 0u);
}

TEST(PrefixRouter, CountsOnlyLeadingBlocks) {
  PrefixRouter router(1000);
  router.Record(0, Prompt(0, 4));
  EXPECT_EQ(router.NumCachedBlocks(0, Prompt(1, 4)), 0u);
}

}  // namespace
}  // namespace caravan
