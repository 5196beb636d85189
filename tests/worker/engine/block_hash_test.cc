#include "worker/engine/block_hash.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace caravan {
namespace {

// `openssl mac -macopt hexkey:000102…0f -macopt size:16 SIPHASH` of the bytes 00 01 02 …
TEST(BlockHash, IsSipHash128) {
  const BlockHash key = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  const std::vector<uint64_t> words = {0x0706050403020100, 0x0f0e0d0c0b0a0908, 0x1716151413121110};
  const BlockHash expected[] = {{0xe6a825ba047f81a3, 0x930255c71472f66d},
                                {0x61f55862baa9623b, 0xb49714f364e2830f},
                                {0xbb54b067caa4e26e, 0x77052385bf1533fd},
                                {0xd850bd78ae79b42d, 0xad32618a178a2a88}};
  for (size_t count = 0; count < 4; ++count) {
    const BlockHash hash = SipHash128(key, std::span(words).first(count));
    EXPECT_EQ(hash.low, expected[count].low) << count << " words";
    EXPECT_EQ(hash.high, expected[count].high) << count << " words";
  }
}

TEST(BlockHash, DependsOnSaltLengthClassParentAndEachToken) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  std::set<std::pair<uint64_t, uint64_t>> seen;
  const auto add = [&](const BlockHash& parent, const std::vector<int32_t>& block) {
    const BlockHash hash = HashBlock(parent, block);
    EXPECT_TRUE(seen.insert({hash.low, hash.high}).second);
  };
  add(RootHash(0, 0), tokens);
  add(RootHash(1, 0), tokens);
  add(RootHash(0, 1), tokens);
  add(HashBlock(RootHash(0, 0), tokens), tokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::vector<int32_t> changed = tokens;
    changed[i] = 9;
    add(RootHash(0, 0), changed);
  }
  add(RootHash(0, 0), {1, 2, 3});
  add(RootHash(0, 0), {1, 2, 3, 0});
  add(RootHash(0, 0), {2, 1, 4, 3});
}

// Routers and other processes compute the same names: these may only change knowingly.
TEST(BlockHash, IsTheSameInEveryProcess) {
  const BlockHash hash = HashBlock(RootHash(0, 0), std::vector<int32_t>{1, 2, 3, 4});
  EXPECT_EQ(hash.low, 5874602321154404878u);
  EXPECT_EQ(hash.high, 13486877859626433695u);
}

}  // namespace
}  // namespace caravan
