// Softmax over scores that come tile by tile (Milakov and Gimelshein 2018, arXiv:1805.02867), on
// fragments of tensor cores: two rows to a lane, h = 0 and 1, elements 2h and 2h + 1 of each.
#pragma once

#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {

// Of the two rows: the greatest scaled score so far, and the sum of weights 2^(scaled score -
// maximum) in this lane's columns.
struct SoftmaxRows {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};

  // Over all columns.
  __device__ float Total(int h) const {
    float total = sum[h];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    return total;
  }
};

// Makes weights of the scores; what was weighed before is to be multiplied by `correction`. The
// first tile must have a finite score in each row. `scale`, above 0, is that of exponents of two.
template <int kTiles>
__device__ __forceinline__ void FoldScores(float scale, float (&scores)[kTiles][4],
                                           SoftmaxRows& rows, float (&correction)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float maximum = -INFINITY;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      maximum = fmaxf(maximum, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
    maximum = fmaxf(maximum * scale, rows.maximum[h]);
    correction[h] = Exp2(rows.maximum[h] - maximum);
    rows.maximum[h] = maximum;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        scores[n][i] = Exp2(__fmaf_rn(scores[n][i], scale, -maximum));
        sum += scores[n][i];
      }
    }
    rows.sum[h] = rows.sum[h] * correction[h] + sum;
  }
}

template <int kTiles>
__device__ __forceinline__ void Correct(const float (&correction)[2], float (&out)[kTiles][4]) {
  if (!__any_sync(~0u, correction[0] != 1 || correction[1] != 1)) return;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[n][i] *= correction[i / 2];
  }
}

// Weights of 16 columns, tiles 2k and 2k + 1, as a fragment of A.
template <typename T, int kTiles>
__device__ __forceinline__ void PackWeights(const float (&scores)[kTiles][4], int k,
                                            uint32_t (&weights)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = 2 * k + i / 2;
    weights[i] = PackPair<T>(scores[n][i % 2 * 2], scores[n][i % 2 * 2 + 1]);
  }
}

}  // namespace caravan::cuda
