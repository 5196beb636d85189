// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) fused with the write of new keys and
// values.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device_stream.h"
#include "kernels/paged_kv.h"
#include "kernels/view.h"

namespace caravan {

// For each query row: rotates its q heads in place and its k heads into the cache, copies v into
// the cache. Rotation is the Hugging Face "half" form: with c = cos_sin[r][i], s = cos_sin[r][half
// + i], r = rope_rows[t]:
//   x'[i] = x[i]·c - x[half + i]·s,  x'[half + i] = x[half + i]·c + x[i]·s,  half = head_size / 2,
//   in float32.
// Any attention scaling of the rope type is already in cos_sin.
void RopeAppendKv(MatrixView qkv,  // [tokens, (q_heads + 2 · kv_heads) · head_size]: q, k, v
                  ConstMatrixView cos_sin,  // float32 [rope rows, head_size]: cosines, then sines
                  std::span<const int32_t>
                      rope_rows,  // [tokens] row of cos_sin for each token (its position, mostly)
                  const PagedBatch& batch,  // which token goes where
                  const KvCacheView& kv, DeviceStream stream);

}  // namespace caravan
