// Addresses in the paged KV memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/paged_kv.h"

namespace caravan::cpu {

// The physical block that holds logical block `index` of sequence `s`.
inline int64_t BlockOf(const PagedBatch& batch, const KvCacheView& kv, int64_t s, int64_t index) {
  CARAVAN_CHECK(index < batch.block_table_stride, "block ", index, " of sequence ", s,
                ", table of ", batch.block_table_stride);
  const int64_t row = batch.table_rows == nullptr ? s : batch.table_rows[s];
  const int64_t block = batch.block_tables[row * batch.block_table_stride + index];
  CARAVAN_CHECK(block >= 0 && block < kv.num_blocks, "block ", block, " of ", kv.num_blocks);
  return block;
}

// Elements of one block.
inline int64_t BlockElements(const KvCacheView& kv) {
  return int64_t{kv.kv_heads} * kv.block_tokens * kv.head_size;
}

// The head_size elements of one position in `memory`, which is kv.keys or kv.values; the following
// positions of the block follow.
inline void* CacheRow(const KvCacheView& kv, void* memory, int64_t block, int64_t head,
                      int64_t offset) {
  const int64_t element =
      block * BlockElements(kv) + (head * kv.block_tokens + offset) * kv.head_size;
  return static_cast<std::byte*>(memory) + element * SizeOf(kv.dtype);
}

}  // namespace caravan::cpu
