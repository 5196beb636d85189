// Where one sequence's KV lies: block i holds positions [i · block_tokens, (i + 1) · block_tokens).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/engine/block_hash.h"
#include "worker/engine/block_pool.h"
#include "worker/engine/step_plan.h"

namespace caravan {

// What a step must be told about a table that changed.
struct TableChanges {
  std::vector<KvBlockCopy> copies;
  std::vector<ReplacedBlock> replaced;
  // Copied-from blocks that the table gave up; the scheduler releases them once the step is
  // complete, so that no other table of the step gets one while it is still to be read.
  std::vector<int32_t> sources;
};

class BlockTable {
 public:
  explicit BlockTable(int32_t block_tokens) : block_tokens_(block_tokens) {}

  // The table is empty: takes the cached blocks of the longest prefix of `tokens`. Returns how many
  // positions they hold.
  int32_t Match(BlockPool& pool, const BlockHash& root, std::span<const int32_t> tokens);

  // The table is empty: holds `parent`'s blocks of its first `positions`, by reference.
  void Fork(BlockPool& pool, const BlockTable& parent, int32_t positions);

  // How many blocks Prepare would allocate.
  int32_t BlocksToPrepare(const BlockPool& pool, int32_t first, int32_t end) const;

  // Makes positions [first, end) writable: appends blocks, and replaces those that are shared or
  // published (copied where positions before `first` lie in them). The pool must have
  // BlocksToPrepare blocks available.
  void Prepare(BlockPool& pool, int32_t first, int32_t end, TableChanges& changes);

  // Publishes the blocks that are full within the first `positions`, whose KV submitted steps write
  // and whose `tokens` are known.
  void Publish(BlockPool& pool, const BlockHash& root, std::span<const int32_t> tokens,
               int32_t positions);

  // The last first, so that a prefix is evicted after what depends on it.
  void Release(BlockPool& pool);
  void ReleaseLast(BlockPool& pool);

  // The blocks that no step was told of yet; they count as told from now on.
  std::vector<int32_t> TakeNew();

  std::span<const int32_t> blocks() const { return blocks_; }
  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }

 private:
  int32_t BlocksFor(int32_t positions) const {
    return (positions + block_tokens_ - 1) / block_tokens_;
  }
  std::span<const int32_t> TokensOf(std::span<const int32_t> tokens, int32_t index) const {
    return tokens.subspan(static_cast<size_t>(index) * block_tokens_, block_tokens_);
  }

  int32_t block_tokens_;
  std::vector<int32_t> blocks_;
  std::vector<BlockHash> hashes_;  // of the first blocks, full and known
  int32_t told_ = 0;
};

}  // namespace caravan
