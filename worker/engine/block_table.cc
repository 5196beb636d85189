#include "worker/engine/block_table.h"

#include <algorithm>

#include "common/status.h"

namespace caravan {

int32_t BlockTable::Match(BlockPool& pool, const BlockHash& root, std::span<const int32_t> tokens) {
  CARAVAN_CHECK(blocks_.empty());
  const int32_t full_blocks = static_cast<int32_t>(tokens.size()) / block_tokens_;
  BlockHash parent = root;
  while (num_blocks() < full_blocks) {
    const BlockHash hash = HashBlock(parent, TokensOf(tokens, num_blocks()));
    const auto block = pool.Acquire(hash);
    if (!block) break;
    blocks_.push_back(*block);
    hashes_.push_back(hash);
    parent = hash;
  }
  return num_blocks() * block_tokens_;
}

void BlockTable::Fork(BlockPool& pool, const BlockTable& parent, int32_t positions) {
  CARAVAN_CHECK(blocks_.empty());
  const int32_t count = BlocksFor(positions);
  blocks_.assign(parent.blocks_.begin(), parent.blocks_.begin() + count);
  for (int32_t block : blocks_) pool.Retain(block);
  const size_t full = std::min<size_t>(positions / block_tokens_, parent.hashes_.size());
  hashes_.assign(parent.hashes_.begin(), parent.hashes_.begin() + full);
}

int32_t BlockTable::BlocksToPrepare(const BlockPool& pool, int32_t first, int32_t end) const {
  const int32_t last = BlocksFor(end);
  int32_t count = std::max(0, last - num_blocks());
  for (int32_t i = first / block_tokens_; i < std::min(last, num_blocks()); ++i) {
    count += !pool.Writable(blocks_[i]);
  }
  return count;
}

void BlockTable::Prepare(BlockPool& pool, int32_t first, int32_t end, TableChanges& changes) {
  const int32_t last = BlocksFor(end);
  for (int32_t i = first / block_tokens_; i < last; ++i) {
    if (i < num_blocks() && pool.Writable(blocks_[i])) continue;
    const auto block = pool.Allocate();
    CARAVAN_CHECK(block.has_value(), "positions=", first, "..", end);
    if (i >= num_blocks()) {
      blocks_.push_back(*block);
      continue;
    }
    if (i * block_tokens_ < first) changes.copies.push_back({0, blocks_[i], *block});
    if (i < told_) changes.replaced.push_back({0, i, *block});
    changes.sources.push_back(blocks_[i]);
    blocks_[i] = *block;
    hashes_.resize(std::min<size_t>(hashes_.size(), i));
  }
}

void BlockTable::Publish(BlockPool& pool, const BlockHash& root, std::span<const int32_t> tokens,
                         int32_t positions) {
  const int32_t full = std::min(positions, static_cast<int32_t>(tokens.size())) / block_tokens_;
  for (int32_t i = static_cast<int32_t>(hashes_.size()); i < full; ++i) {
    hashes_.push_back(HashBlock(i == 0 ? root : hashes_.back(), TokensOf(tokens, i)));
    pool.Publish(blocks_[i], hashes_.back());
  }
}

void BlockTable::Release(BlockPool& pool) {
  while (!blocks_.empty()) ReleaseLast(pool);
  told_ = 0;
}

void BlockTable::ReleaseLast(BlockPool& pool) {
  pool.Release(blocks_.back());
  blocks_.pop_back();
  hashes_.resize(std::min(hashes_.size(), blocks_.size()));
}

std::vector<int32_t> BlockTable::TakeNew() {
  std::vector<int32_t> added(blocks_.begin() + told_, blocks_.end());
  told_ = num_blocks();
  return added;
}

}  // namespace caravan
