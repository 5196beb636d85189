#include "worker/engine/block_hash.h"

#include <bit>

namespace caravan {
namespace {

// A keyed hash with a fixed key: no seed per process, so that routers and other replicas can
// compute the same names, yet no shorter way to a collision than a generic one.
constexpr BlockHash kKey = {0x6b206e6176617261, 0x6c622d76};

class SipState {
 public:
  explicit SipState(const BlockHash& key)
      : v0_(key.low ^ 0x736f6d6570736575),
        v1_(key.high ^ 0x646f72616e646f6d ^ 0xee),
        v2_(key.low ^ 0x6c7967656e657261),
        v3_(key.high ^ 0x7465646279746573) {}

  void Absorb(uint64_t word) {
    v3_ ^= word;
    Rounds(2);
    v0_ ^= word;
    bytes_ += sizeof(word);
  }

  BlockHash Finish() {
    Absorb(bytes_ << 56);
    v2_ ^= 0xee;
    Rounds(4);
    const uint64_t low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    Rounds(4);
    return {low, v0_ ^ v1_ ^ v2_ ^ v3_};
  }

 private:
  void Rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0_ += v1_;
      v1_ = std::rotl(v1_, 13) ^ v0_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v3_;
      v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ += v3_;
      v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ += v1_;
      v1_ = std::rotl(v1_, 17) ^ v2_;
      v2_ = std::rotl(v2_, 32);
    }
  }

  uint64_t v0_, v1_, v2_, v3_;
  uint64_t bytes_ = 0;
};

}  // namespace

BlockHash SipHash128(const BlockHash& key, std::span<const uint64_t> words) {
  SipState state(key);
  for (uint64_t word : words) state.Absorb(word);
  return state.Finish();
}

BlockHash RootHash(uint64_t salt, uint64_t length_class) {
  const uint64_t words[] = {salt, length_class};
  return SipHash128(kKey, words);
}

BlockHash HashBlock(const BlockHash& parent, std::span<const int32_t> tokens) {
  SipState state(kKey);
  state.Absorb(parent.low);
  state.Absorb(parent.high);
  state.Absorb(tokens.size());
  for (size_t i = 0; i < tokens.size(); i += 2) {
    const uint64_t first = static_cast<uint32_t>(tokens[i]);
    const uint64_t second = i + 1 < tokens.size() ? static_cast<uint32_t>(tokens[i + 1]) : 0;
    state.Absorb(first | second << 32);
  }
  return state.Finish();
}

}  // namespace caravan
