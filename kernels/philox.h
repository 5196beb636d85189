// Philox4x32-10, a counter-based random generator: J. Salmon, M. Moraes, R. Dror and D. Shaw,
// "Parallel random numbers: as easy as 1, 2, 3", 2011. No state: equal (key, counter) give equal
// words, on every device.
#pragma once

#include <cstdint>

namespace caravan {

struct PhiloxWords {
  uint32_t word[4] = {};
};

// Word 2 of the counter: draws for different purposes never meet.
enum class PhiloxPurpose : uint32_t { kSample = 0 };

constexpr PhiloxWords Philox4x32(uint64_t key, PhiloxWords counter) {
  uint32_t key_low = static_cast<uint32_t>(key);
  uint32_t key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {
        {static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key_low, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key_high, static_cast<uint32_t>(a)}};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace caravan
