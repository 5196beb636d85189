// A paged batch for the benchmarks: sequences of one length, blocks in order.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/paged_kv.h"

namespace caravan {

struct BenchBatch {
  BenchBatch(int32_t sequences, int32_t queries, int32_t context, DType kv_dtype)
      : kv{.dtype = kv_dtype, .block_tokens = 16, .kv_heads = 8, .head_size = 128} {
    const int32_t blocks = (context + kv.block_tokens - 1) / kv.block_tokens;
    kv.num_blocks = int64_t{blocks} * sequences;
    const int64_t bytes = kv.num_blocks * kv.block_tokens * kv.kv_heads * kv.head_size;
    memory.assign(static_cast<size_t>(2 * bytes * SizeOf(kv_dtype)), 0);
    kv.keys = memory.data();
    kv.values = memory.data() + bytes * SizeOf(kv_dtype);
    for (int32_t s = 0; s < sequences; ++s) {
      starts.push_back(s * queries);
      contexts.push_back(context);
      for (int32_t b = 0; b < blocks; ++b) table.push_back(s * blocks + b);
    }
    starts.push_back(sequences * queries);
    batch = {starts, contexts, table.data(), blocks};
  }
  BenchBatch(const BenchBatch&) = delete;
  BenchBatch& operator=(const BenchBatch&) = delete;

  KvCacheView kv;
  std::vector<char> memory;
  std::vector<int32_t> starts;
  std::vector<int32_t> contexts;
  std::vector<int32_t> table;
  PagedBatch batch;
};

}  // namespace caravan
