#include "gateway/routing.h"

#include <limits>
#include <tuple>

#include "common/status.h"

namespace caravan {

std::vector<uint64_t> HashPromptBlocks(std::span<const int32_t> prompt_token_ids, int block_tokens,
                                       uint64_t salt) {
  CARAVAN_CHECK(block_tokens > 0);
  std::vector<uint64_t> hashes;
  hashes.reserve(prompt_token_ids.size() / block_tokens);
  uint64_t hash = salt ^ 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < prompt_token_ids.size(); ++i) {
    hash = (hash ^ static_cast<uint32_t>(prompt_token_ids[i])) * 0xbf58476d1ce4e5b9;
    hash ^= hash >> 29;
    if ((i + 1) % block_tokens == 0) hashes.push_back(hash);
  }
  return hashes;
}

PrefixRouter::PrefixRouter(size_t max_blocks_per_replica)
    : max_blocks_per_replica_(max_blocks_per_replica) {}

int PrefixRouter::Choose(std::span<const uint64_t> block_hashes, int block_tokens,
                         std::span<const Candidate> candidates) {
  CARAVAN_CHECK(!candidates.empty());
  int best = -1;
  std::tuple<int64_t, uint64_t> best_cost = {std::numeric_limits<int64_t>::max(), 0};
  for (const Candidate& candidate : candidates) {
    const size_t cached = NumCachedBlocks(candidate.replica, block_hashes);
    const int64_t uncached_tokens =
        static_cast<int64_t>(block_hashes.size() - cached) * block_tokens;
    const std::tuple<int64_t, uint64_t> cost = {
        uncached_tokens + int64_t{kTokensPerRequest} * candidate.load,
        caches_[candidate.replica].last_chosen};
    if (best < 0 || cost < best_cost) {
      best = candidate.replica;
      best_cost = cost;
    }
  }
  caches_[best].last_chosen = ++num_choices_;
  return best;
}

size_t PrefixRouter::NumCachedBlocks(int replica, std::span<const uint64_t> block_hashes) const {
  const auto cache = caches_.find(replica);
  if (cache == caches_.end()) return 0;
  size_t cached = 0;
  while (cached < block_hashes.size() && cache->second.blocks.contains(block_hashes[cached])) {
    ++cached;
  }
  return cached;
}

void PrefixRouter::Record(int replica, std::span<const uint64_t> block_hashes) {
  Cache& cache = caches_[replica];
  // Backwards, so that a block is always used after its successors and is forgotten after them.
  for (size_t i = block_hashes.size(); i > 0; --i) {
    const uint64_t hash = block_hashes[i - 1];
    const auto [block, inserted] = cache.blocks.try_emplace(hash);
    if (!inserted) cache.recency.erase(block->second);
    cache.recency.push_front(hash);
    block->second = cache.recency.begin();
  }
  while (cache.recency.size() > max_blocks_per_replica_) {
    cache.blocks.erase(cache.recency.back());
    cache.recency.pop_back();
  }
}

void PrefixRouter::Forget(int replica) {
  const auto cache = caches_.find(replica);
  if (cache == caches_.end()) return;
  cache->second.recency.clear();
  cache->second.blocks.clear();
}

}  // namespace caravan
