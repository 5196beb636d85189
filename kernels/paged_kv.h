// The paged key-value memory of one layer, and the batch that is run against it.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/view.h"

namespace caravan {

// How KV is stored. Quantized formats are further enumerators here.
enum class KvFormat : uint8_t {
  kDense,  // keys and values [num_blocks, kv_heads, block_tokens, head_size] of `dtype`
};

// One layer's blocks on one rank. Position p of a sequence lies in block table[p / block_tokens] at
// p % block_tokens.
struct KvCacheView {
  KvFormat format = KvFormat::kDense;
  DType dtype = DType::kFloat32;
  void* keys = nullptr;
  void* values = nullptr;
  int64_t num_blocks = 0;
  int32_t block_tokens = 0;
  int32_t kv_heads = 0;  // of this rank
  int32_t head_size = 0;
};

// The sequences of one step, ragged: sequence s has the query rows [query_starts[s], query_starts[s
// + 1]), which are the last of its context_lengths[s] positions.
struct PagedBatch {
  std::span<const int32_t> query_starts;     // [sequences + 1], non-decreasing, first 0
  std::span<const int32_t> context_lengths;  // [sequences], queries included
  const int32_t* block_tables = nullptr;     // [sequences, block_table_stride]
  int64_t block_table_stride = 0;

  int64_t num_sequences() const { return static_cast<int64_t>(context_lengths.size()); }
};

}  // namespace caravan
