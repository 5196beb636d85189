// Which replica serves a prompt: the one that probably holds its beginning in its prefix cache,
// unless that one is busier than the saved work is worth.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace caravan {

// One hash for each full block of the prompt, chained: it stands for the block and all before it.
// `salt` keeps tenants apart.
std::vector<uint64_t> HashPromptBlocks(std::span<const int32_t> prompt_token_ids, int block_tokens,
                                       uint64_t salt);

// Remembers, for each replica, which prompt blocks were sent there: an estimate of its cache, since
// evictions and other gateways are not seen. Not thread-safe.
class PrefixRouter {
 public:
  // Bounds the memory: about 64 bytes a block. The least recently used blocks are forgotten.
  explicit PrefixRouter(size_t max_blocks_per_replica);

  struct Candidate {
    int replica = 0;
    int load = 0;  // requests waiting and running there
  };

  // The candidate with the least cost: prompt tokens that are not cached there, plus
  // kTokensPerRequest for each request of its load. Equal ones take turns.
  // REQUIRES: there is a candidate.
  int Choose(std::span<const uint64_t> block_hashes, int block_tokens,
             std::span<const Candidate> candidates);

  // The prompt was sent to the replica.
  void Record(int replica, std::span<const uint64_t> block_hashes);

  // The replica's cache is gone (a new instance or epoch).
  void Forget(int replica);

  // Leading blocks of the prompt that were sent to the replica.
  size_t NumCachedBlocks(int replica, std::span<const uint64_t> block_hashes) const;

  // One waiting or running request weighs as much as the prefill of so many tokens.
  static constexpr int kTokensPerRequest = 128;

 private:
  struct Cache {
    std::list<uint64_t> recency;  // front: used last
    absl::flat_hash_map<uint64_t, std::list<uint64_t>::iterator> blocks;
    uint64_t last_chosen = 0;
  };

  const size_t max_blocks_per_replica_;
  absl::flat_hash_map<int, Cache> caches_;
  uint64_t num_choices_ = 0;
};

}  // namespace caravan
