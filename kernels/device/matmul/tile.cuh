// The kernel behind MultiplyTiled: tiles of outputs on tensor cores, fed by a ring of stages in
// shared memory.
#pragma once

#include <algorithm>

#include "kernels/device/any_dtype.cuh"
#include "kernels/device/cluster.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {

constexpr int kChunk = 8;    // elements of 16 bytes
constexpr int kStep = 16;    // inner elements of one mma
constexpr int kPadding = 4;  // floats behind a row of partial sums: no bank conflicts

// A block makes features x tokens sums, each of its warps kWarpFeatures x kWarpTokens of them, and
// takes kDepth inner elements a stage.
template <int kFeatures_, int kTokens_, int kWarpFeatures_, int kWarpTokens_, int kDepth_,
          int kStages_, int kBlocks_, bool kWide_ = false>
struct Tile {
  static constexpr int kFeatures = kFeatures_;
  static constexpr int kTokens = kTokens_;
  static constexpr int kWarpFeatures = kWarpFeatures_;
  static constexpr int kWarpTokens = kWarpTokens_;
  static constexpr int kDepth = kDepth_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;  // of a multiprocessor
  static constexpr int kTilesAlong = kFeatures / kWarpFeatures;
  static constexpr int kWarps = kTilesAlong * (kTokens / kWarpTokens);
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWeightBytes = SwizzledTile<kDepth>::Bytes(kFeatures);
  static constexpr int kStageBytes = SwizzledTile<kDepth>::Bytes(kFeatures + kTokens);
  static constexpr int kPartialRow = kFeatures + kPadding;
  static constexpr int kSharedBytes = std::max(kStages * kStageBytes, 4 * kTokens * kPartialRow);
};

struct TiledArgs {
  const void* weight;
  const void* x;
  int64_t x_stride;
  const void* bias;  // or null
  DType bias_dtype;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  int64_t tokens;
  int64_t features;
  int64_t k;
  int splits;
  bool wide_stores;
};

// Like CopyAsync16, but a miss in the L2 cache fetches 256 bytes: those of the next stage lie
// beside them, and memory serves them together.
__device__ inline void CopyAhead16(uint32_t shared, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

// One thread's share of copying kRows rows of a stage: chunk `chunk` of every kStride-th row from
// `row` on.
template <typename T, typename Shape, int kRows>
struct RowCopier {
  static constexpr int kDepth = Shape::kDepth;
  static constexpr int kChunks = kDepth / kChunk;  // of a row
  static constexpr int kStride = Shape::kThreads / kChunks;
  static constexpr int kEach = (kRows + kStride - 1) / kStride;

  const T* source;  // of the thread's first chunk in tile 0
  int64_t stride;   // elements between two of the thread's rows
  int rows;         // of the matrix, from the tile's first on
  int64_t k;
  int row;
  int chunk;

  __device__ RowCopier(const void* matrix, int64_t row_stride, int64_t first, int64_t all_rows,
                       int64_t inner)
      : stride(kStride * row_stride),
        rows(static_cast<int>(min(all_rows - first, int64_t{kRows}))),
        k(inner),
        row(threadIdx.x / kChunks),
        chunk(threadIdx.x % kChunks) {
    source = static_cast<const T*>(matrix) + (first + row) * row_stride + chunk * kChunk;
  }

  __device__ bool Has(int i) const { return row + i * kStride < kRows; }
  __device__ bool IsInside(int i, int64_t tile) const {
    return row + i * kStride < rows && tile * kDepth + chunk * kChunk < k;
  }
  __device__ uint32_t Offset(int i) const {  // bytes
    return SwizzledTile<kDepth>::Offset(row + i * kStride, chunk);
  }

  // Rows and elements beyond the matrix become zeros.
  __device__ void Copy(int64_t tile, uint32_t shared) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (!Has(i)) continue;
      const bool inside = IsInside(i, tile);
      CopyAhead16(shared + Offset(i), source + i * stride + tile * kDepth, inside);
    }
  }
  __device__ uint4 Load(int i, int64_t tile) const {
    if (!Has(i) || !IsInside(i, tile)) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(source + i * stride + tile * kDepth);
  }
  __device__ void Store(int i, uint4 value, char* shared) const {
    if (Has(i)) *reinterpret_cast<uint4*>(shared + Offset(i)) = value;
  }
};

// The warp's place in the block, and from where it reads its operands.
template <typename Shape>
struct WarpTile {
  int feature;  // first of the tile
  int token;
  FragmentAddress<Shape::kDepth> weights;
  FragmentAddress<Shape::kDepth> x;

  __device__ WarpTile(int warp, int lane)
      : feature(warp % Shape::kTilesAlong * Shape::kWarpFeatures),
        token(warp / Shape::kTilesAlong * Shape::kWarpTokens),
        weights(feature + lane % 16, lane / 16),
        x(token + (Shape::kWarpTokens == 8 ? 0 : lane / 16 * 8) + lane % 8, lane / 8 % 2) {}
};

template <typename Shape>
using Sums = float[Shape::kWarpFeatures / 16][Shape::kWarpTokens / 8][4];

// The two matrices of one column tile, addressed by the lower 16 lanes.
__device__ inline void LoadHalfFragment(uint32_t shared, uint32_t (&f)[2]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(f[0]), "=r"(f[1])
               : "r"(shared)
               : "memory");
}

// Inner step `step` of the tokens at `x`: two registers for each eight of them.
template <typename Shape>
__device__ void LoadTokens(const WarpTile<Shape>& tile, uint32_t x, int step,
                           uint32_t (&b)[Shape::kWarpTokens / 8][2]) {
  if constexpr (Shape::kWarpTokens == 8) {
    LoadHalfFragment(tile.x.At(x, step), b[0]);
  } else {
#pragma unroll
    for (int j = 0; j < Shape::kWarpTokens / 16; ++j) {
      uint32_t two[4];
      LoadFragment(tile.x.At(x, j, step), two);
      b[2 * j][0] = two[0];
      b[2 * j][1] = two[1];
      b[2 * j + 1][0] = two[2];
      b[2 * j + 1][1] = two[3];
    }
  }
}

// The warp's share of one stage: weights are the 16 rows of an mma, tokens its 8 columns.
template <typename T, typename Shape>
__device__ void MultiplyStage(uint32_t stage, const WarpTile<Shape>& tile, Sums<Shape>& sums) {
#pragma unroll
  for (int step = 0; step < Shape::kDepth / kStep; ++step) {
    uint32_t b[Shape::kWarpTokens / 8][2];
    LoadTokens(tile, stage + Shape::kWeightBytes, step, b);
#pragma unroll
    for (int m = 0; m < Shape::kWarpFeatures / 16; ++m) {
      uint32_t a[4];
      LoadFragment(tile.weights.At(stage, m, step), a);
#pragma unroll
      for (int n = 0; n < Shape::kWarpTokens / 8; ++n) {
        MultiplyAdd<T>(sums[m][n], a, b[n][0], b[n][1]);
      }
    }
  }
}

// The warp's sums to shared memory: [token][feature].
template <typename Shape>
__device__ void StorePartials(const Sums<Shape>& sums, const WarpTile<Shape>& tile,
                              float* partials) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < Shape::kWarpFeatures / 16; ++i) {
#pragma unroll
    for (int j = 0; j < Shape::kWarpTokens / 8; ++j) {
      const int feature = tile.feature + i * 16 + lane / 4;
      const int token = tile.token + j * 8 + lane % 4 * 2;
      float* target = partials + token * Shape::kPartialRow + feature;
      target[0] = sums[i][j][0];
      target[Shape::kPartialRow] = sums[i][j][1];
      target[8] = sums[i][j][2];
      target[Shape::kPartialRow + 8] = sums[i][j][3];
    }
  }
}

__device__ inline void StoreFour(const TiledArgs& args, int64_t token, int64_t feature,
                                 float4 sum) {
  float values[4] = {sum.x, sum.y, sum.z, sum.w};
  if (args.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (feature + i < args.features) {
        values[i] += LoadElement(args.bias, args.bias_dtype, feature + i);
      }
    }
  }
  const int64_t index = token * args.out_stride + feature;
  if (args.wide_stores) {
    StoreElements<4>(args.out, args.out_dtype, index, values);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (feature + i < args.features) StoreElement(args.out, args.out_dtype, index + i, values[i]);
  }
}

// Adds up what the blocks of the cluster have, in one order, and stores this block's share.
template <typename Shape>
__device__ void ReduceAndStore(const TiledArgs& args, const float* partials, int64_t first_token,
                               int64_t first_feature) {
  constexpr int kFours = Shape::kFeatures / 4;
  const int share = Shape::kTokens * kFours / args.splits;
  const int rank = blockIdx.x;
  for (int i = rank * share + threadIdx.x; i < (rank + 1) * share; i += Shape::kThreads) {
    const int token = i / kFours;
    const int feature = i % kFours * 4;
    if (first_token + token >= args.tokens || first_feature + feature >= args.features) continue;
    const auto* place =
        reinterpret_cast<const float4*>(partials + token * Shape::kPartialRow + feature);
    float4 sum = args.splits == 1 ? *place : make_float4(0, 0, 0, 0);
    for (int split = 0; args.splits > 1 && split < args.splits; ++split) {
      const float4 v = LoadFromCluster(place, split);
      sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    StoreFour(args, first_token + token, first_feature + feature, sum);
  }
}

// The inputs of the first stages: by ordinary loads, since copies would be waited for in the order
// in which they were issued, and the weights of all first stages were issued earlier.
template <typename T, typename Shape>
__device__ void LoadFirstInputs(const RowCopier<T, Shape, Shape::kTokens>& x, int64_t begin,
                                int64_t end, char* stages) {
  constexpr int kEach = RowCopier<T, Shape, Shape::kTokens>::kEach;
  uint4 values[Shape::kStages - 1][kEach];
#pragma unroll
  for (int s = 0; s < Shape::kStages - 1; ++s) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      values[s][i] = begin + s < end ? x.Load(i, begin + s) : make_uint4(0, 0, 0, 0);
    }
  }
#pragma unroll
  for (int s = 0; s < Shape::kStages - 1; ++s) {
    char* target = stages + s * Shape::kStageBytes + Shape::kWeightBytes;
#pragma unroll
    for (int i = 0; i < kEach; ++i) x.Store(i, values[s][i], target);
  }
}

// A cluster of blocks per tile of outputs, each block with a part of the inner dimension: even a
// small matrix is read by all multiprocessors at once. A ring of stages in shared memory keeps its
// copies under way; the first weights come before the predecessor has ended.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) TiledKernel(TiledArgs args) {
  extern __shared__ uint4 shared[];
  const uint32_t stages = SharedAddress(shared);
  const int64_t first_token = int64_t{blockIdx.y} * Shape::kTokens;
  const int64_t first_feature = int64_t{blockIdx.z} * Shape::kFeatures;
  const RowCopier<T, Shape, Shape::kFeatures> weights(args.weight, args.k, first_feature,
                                                      args.features, args.k);
  const RowCopier<T, Shape, Shape::kTokens> x(args.x, args.x_stride, first_token, args.tokens,
                                              args.k);
  const int64_t tiles = (args.k + Shape::kDepth - 1) / Shape::kDepth;
  const int64_t begin = tiles * blockIdx.x / args.splits;
  const int64_t end = tiles * (blockIdx.x + 1) / args.splits;
  ReleaseSuccessor();
#pragma unroll
  for (int s = 0; s < Shape::kStages - 1; ++s) {
    if (begin + s < end) weights.Copy(begin + s, stages + s * Shape::kStageBytes);
    CommitCopies();
  }
  WaitForPredecessor();
  LoadFirstInputs<T, Shape>(x, begin, end, reinterpret_cast<char*>(shared));
  const WarpTile<Shape> place(threadIdx.x / 32, threadIdx.x % 32);
  Sums<Shape> sums = {};
  int stage = 0;
  for (int64_t tile = begin; tile < end; ++tile) {
    WaitForCopies<Shape::kStages - 2>();
    __syncthreads();
    const int64_t next = tile + Shape::kStages - 1;
    if (next < end) {
      const int previous = stage == 0 ? Shape::kStages - 1 : stage - 1;
      const uint32_t target = stages + previous * Shape::kStageBytes;
      weights.Copy(next, target);
      x.Copy(next, target + Shape::kWeightBytes);
    }
    CommitCopies();
    MultiplyStage<T, Shape>(stages + stage * Shape::kStageBytes, place, sums);
    stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
  }
  WaitForCopies<0>();
  __syncthreads();
  auto* partials = reinterpret_cast<float*>(shared);
  StorePartials<Shape>(sums, place, partials);
  if (args.splits > 1) {
    SynchronizeCluster();
  } else {
    __syncthreads();
  }
  ReduceAndStore<Shape>(args, partials, first_token, first_feature);
  if (args.splits > 1) SynchronizeCluster();  // no block leaves while others read its sums
}

}  // namespace caravan::cuda
