#include "worker/engine/block_pool.h"

#include "common/status.h"

namespace caravan {

BlockPool::BlockPool(int32_t num_blocks) : blocks_(num_blocks) {
  CARAVAN_CHECK(num_blocks > 0, "num_blocks=", num_blocks);
  Reset();
}

void BlockPool::Reset() {
  blocks_.assign(blocks_.size(), Block());
  by_hash_.clear();
  oldest_ = newest_ = kNone;
  cached_ = used_ = 0;
  free_.resize(blocks_.size());
  // The lowest numbers are handed out first.
  for (int32_t i = 0; i < total_blocks(); ++i) free_[i] = total_blocks() - 1 - i;
}

std::optional<int32_t> BlockPool::Allocate() {
  int32_t block = oldest_;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (block != kNone) {
    Unlink(block);
    Unpublish(block);
  } else {
    return std::nullopt;
  }
  blocks_[block].references = 1;
  ++used_;
  return block;
}

void BlockPool::Retain(int32_t block) {
  CARAVAN_CHECK(blocks_[block].references > 0, "block=", block);
  ++blocks_[block].references;
}

void BlockPool::Release(int32_t block) {
  CARAVAN_CHECK(blocks_[block].references > 0, "block=", block);
  if (--blocks_[block].references > 0) return;
  --used_;
  if (blocks_[block].published) {
    LinkNewest(block);
  } else {
    free_.push_back(block);
  }
}

void BlockPool::Publish(int32_t block, const BlockHash& hash) {
  CARAVAN_CHECK(blocks_[block].references > 0, "block=", block);
  if (blocks_[block].published) {
    CARAVAN_CHECK(blocks_[block].hash == hash, "block=", block);
    return;
  }
  if (!by_hash_.try_emplace(hash, block).second) return;
  blocks_[block].published = true;
  blocks_[block].hash = hash;
}

std::optional<int32_t> BlockPool::Acquire(const BlockHash& hash) {
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) return std::nullopt;
  const int32_t block = found->second;
  if (blocks_[block].references++ == 0) {
    Unlink(block);
    ++used_;
  }
  return block;
}

void BlockPool::LinkNewest(int32_t block) {
  blocks_[block].older = newest_;
  blocks_[block].newer = kNone;
  (newest_ == kNone ? oldest_ : blocks_[newest_].newer) = block;
  newest_ = block;
  ++cached_;
}

void BlockPool::Unlink(int32_t block) {
  Block& links = blocks_[block];
  (links.older == kNone ? oldest_ : blocks_[links.older].newer) = links.newer;
  (links.newer == kNone ? newest_ : blocks_[links.newer].older) = links.older;
  links.older = links.newer = kNone;
  --cached_;
}

void BlockPool::Unpublish(int32_t block) {
  by_hash_.erase(blocks_[block].hash);
  blocks_[block].published = false;
}

void BlockPool::CheckInvariants(std::span<const std::span<const int32_t>> tables) const {
  CARAVAN_CHECK(free_blocks() + used_ + cached_ == total_blocks(), "free=", free_blocks(),
                " used=", used_, " cached=", cached_, " total=", total_blocks());
  std::vector<int32_t> references(blocks_.size(), 0);
  for (std::span<const int32_t> table : tables) {
    for (int32_t block : table) ++references[block];
  }
  int32_t used = 0;
  int32_t published = 0;
  for (int32_t i = 0; i < total_blocks(); ++i) {
    CARAVAN_CHECK(references[i] == blocks_[i].references, "block=", i, " tables=", references[i],
                  " references=", blocks_[i].references);
    used += references[i] > 0;
    if (!blocks_[i].published) continue;
    ++published;
    const auto found = by_hash_.find(blocks_[i].hash);
    CARAVAN_CHECK(found != by_hash_.end() && found->second == i, "block=", i);
  }
  CARAVAN_CHECK(used == used_, "counted=", used, " used=", used_);
  CARAVAN_CHECK(published == static_cast<int32_t>(by_hash_.size()), "published=", published);
  int32_t cached = 0;
  for (int32_t i = oldest_; i != kNone; i = blocks_[i].newer, ++cached) {
    CARAVAN_CHECK(blocks_[i].references == 0 && blocks_[i].published, "block=", i);
  }
  CARAVAN_CHECK(cached == cached_, "listed=", cached, " cached=", cached_);
  for (int32_t block : free_) {
    CARAVAN_CHECK(blocks_[block].references == 0 && !blocks_[block].published, "block=", block);
  }
}

}  // namespace caravan
