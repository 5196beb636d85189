#include "kernels/philox.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

// The known answers that its authors publish for ten rounds: zeros, ones, digits of pi.
TEST(Philox, GivesThePublishedWords) {
  struct KnownAnswer {
    uint64_t key;
    PhiloxWords counter;
    PhiloxWords words;
  };
  const KnownAnswer answers[] = {
      {0, {{0, 0, 0, 0}}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {0xffffffffffffffff,
       {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
       {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {0x299f31d0a4093822,
       {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const KnownAnswer& answer : answers) {
    const PhiloxWords words = Philox4x32(answer.key, answer.counter);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(words.word[i], answer.words.word[i]) << i;
  }
}

}  // namespace
}  // namespace caravan
