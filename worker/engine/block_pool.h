// The KV blocks of one KV group: who holds which, and which content can be shared.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/engine/block_hash.h"

namespace caravan {

// Every block is in exactly one state:
//   free    no content worth keeping
//   used    held by one or more tables (its reference count)
//   cached  held by none, but published: its content can be shared until it is evicted
// Numbers only: the memory belongs to the ModelRunner. Not thread-safe (the engine's thread).
class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);

  // A block with one reference and no content: a free one, else the cached one that was released
  // longest ago. Nothing where all are used.
  std::optional<int32_t> Allocate();

  // One more holder of a used block.
  void Retain(int32_t block);

  // One holder less; the last one leaves the block cached if it is published, else free.
  void Release(int32_t block);

  // The content of a used block is complete and will not change: Acquire finds it from now on.
  // Where another block has that content already, this one stays private. Holders that share a
  // block may each say so.
  void Publish(int32_t block, const BlockHash& hash);

  // The block of this content with one more reference, or nothing.
  std::optional<int32_t> Acquire(const BlockHash& hash);

  // A block that its holder may write: no other holder, not published.
  bool Writable(int32_t block) const {
    return blocks_[block].references == 1 && !blocks_[block].published;
  }

  // Everything free, nothing cached (the memory's content was lost).
  void Reset();

  int32_t total_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t free_blocks() const { return static_cast<int32_t>(free_.size()); }
  int32_t cached_blocks() const { return cached_; }
  int32_t used_blocks() const { return used_; }
  int32_t available_blocks() const { return free_blocks() + cached_; }  // for Allocate

  // Dies unless `tables` (all there are) explain every reference and free + used + cached = total.
  void CheckInvariants(std::span<const std::span<const int32_t>> tables) const;

 private:
  struct Block {
    int32_t references = 0;
    bool published = false;
    BlockHash hash;
    // Neighbours in the list of cached blocks, by time of release; kNone at the ends.
    int32_t older = kNone;
    int32_t newer = kNone;
  };
  static constexpr int32_t kNone = -1;

  void LinkNewest(int32_t block);
  void Unlink(int32_t block);
  void Unpublish(int32_t block);

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;
  absl::flat_hash_map<BlockHash, int32_t> by_hash_;
  int32_t oldest_ = kNone;
  int32_t newest_ = kNone;
  int32_t cached_ = 0;
  int32_t used_ = 0;
};

}  // namespace caravan
