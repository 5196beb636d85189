// Names a block's content: two blocks of equal hash hold the same KV.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

namespace caravan {

// 128 bits, so that an accidental collision (which would serve one prompt's KV to another) is out
// of reach: about 2^-64 for 2^32 blocks.
struct BlockHash {
  uint64_t low = 0;
  uint64_t high = 0;

  bool operator==(const BlockHash&) const = default;

  template <typename H>
  friend H AbslHashValue(H state, const BlockHash& hash) {
    return H::combine(std::move(state), hash.low, hash.high);
  }
};

// The parent of a sequence's first block. Sequences of different salt or length class never share.
// `length_class` is 0, or the prompt's length where KV depends on it (dynamic rope scaling).
BlockHash RootHash(uint64_t salt, uint64_t length_class);

// The hash of a full block that holds `tokens` and follows `parent`. The same in every process.
BlockHash HashBlock(const BlockHash& parent, std::span<const int32_t> tokens);

// SipHash-2-4-128 (Aumasson and Bernstein 2012) of `words`, little-endian. Exposed for its test.
BlockHash SipHash128(const BlockHash& key, std::span<const uint64_t> words);

}  // namespace caravan
