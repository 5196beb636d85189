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
// + 1]), which are the last of its context_lengths[s] positions. The arrays lie in the stream's
// device's memory; the numbers below them are what the host knows of them, so that nothing has to
// be read back from a device.
struct PagedBatch {
  std::span<const int32_t> query_starts;     // [sequences + 1], non-decreasing, first 0
  std::span<const int32_t> context_lengths;  // [sequences], queries included; 0: no sequence, its
                                             // query rows (padding) are not looked at
  const int32_t* block_tables = nullptr;     // [table rows, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* table_rows = nullptr;  // [sequences] row of block_tables; null: row s for s

  // The first so many sequences have exactly one query row each (row s is sequence s's).
  int32_t num_decodes = 0;
  // Bounds, inclusive, on context_lengths, of the decoding sequences and of the others. 0: what the
  // block tables can hold. Tighter bounds let CUDA launch less.
  int32_t max_decode_context = 0;
  int32_t max_prefill_context = 0;

  int64_t num_sequences() const { return static_cast<int64_t>(context_lengths.size()); }
};

}  // namespace caravan
