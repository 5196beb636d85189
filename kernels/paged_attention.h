// Causal attention over paged KV, for prompts' chunks and single decoding tokens alike.
#pragma once

#include "kernels/device_stream.h"
#include "kernels/paged_kv.h"
#include "kernels/view.h"

namespace caravan {

// out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j, g]) · v[j, g], j ≤ position of t, g = h /
// (q_heads / kv_heads); in float32, rounded once. On CUDA softmax weights are rounded to a two-byte
// dtype of the cache, which all types must share for the fast kernels (else a slow one runs, as it
// does for float32 and for head sizes that are no multiples of 8), and head_size is at most 256.
// Keys and values of the queries themselves are already in the cache (RopeAppendKv). On the CPU,
// and on a batch-invariant CUDA stream, the bits of a row depend on its own sequence alone: not on
// the batch, nor on how its prompt was cut into chunks.
void PagedAttention(
    ConstMatrixView q,  // [tokens, q_heads · head_size], rotated; q_heads = cols / head_size
    const KvCacheView& kv, const PagedBatch& batch,
    float scale,     // > 0, usually 1 / sqrt(head_size)
    MatrixView out,  // [tokens, q_heads · head_size]; not aliased with q
    DeviceStream stream);

// keys and values of block `to` = those of block `from`, for each pair in order (copy on write,
// before a step writes).
struct BlockCopy {
  int32_t from = 0;
  int32_t to = 0;
};
void CopyKvBlocks(const KvCacheView& kv, std::span<const BlockCopy> copies, DeviceStream stream);

}  // namespace caravan
