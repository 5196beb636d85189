// The ways in which CUDA computes paged attention, for its tests and benchmarks: the operator
// itself is kernels/paged_attention.h.
#pragma once

#include "kernels/device/cuda_stream.h"
#include "kernels/paged_kv.h"
#include "kernels/view.h"

namespace caravan::cuda {

enum class AttentionPath : unsigned char {
  kBest,      // what the GPU is best at
  kPortable,  // what runs on sm_80 and later, on Hopper too
};

// PagedAttention on a given path.
void PagedAttentionBy(AttentionPath path, ConstMatrixView q, const KvCacheView& kv,
                      const PagedBatch& batch, float scale, MatrixView out, CudaStream& stream);

}  // namespace caravan::cuda
