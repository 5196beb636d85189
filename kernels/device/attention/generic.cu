// Attention for what the tensor-core kernels do not take: float32, mixed dtypes, odd head sizes,
// rows that are not aligned.
#include "kernels/device/any_dtype.cuh"
#include "kernels/device/attention/arguments.cuh"
#include "kernels/device/cuda_check.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kWarpRows = 4;
constexpr int kRows = kWarps * kWarpRows;
constexpr int kPositions = 32;  // of a tile: one for each lane
constexpr int kMostColumns = 8 * 32;

// One tile in shared memory, as float32. Keys have one float of padding a row, so that lanes that
// read one column of 32 rows meet no bank twice.
struct GenericTile {
  float* q;       // [kRows, head_size]
  float* keys;    // [kPositions, head_size + 1]
  float* values;  // [kPositions, head_size]
};

// Positions that no row sees are zeroed: the cache may hold anything there.
template <typename Kv>
__device__ void LoadTile(const AttentionArguments& a, const RowBlock& rows, const int32_t* table,
                         int first, const GenericTile& tile) {
  const int lane = threadIdx.x % 32;
  for (int p = threadIdx.x / 32; p < kPositions; p += kWarps) {
    const bool valid = first + p < rows.positions;
    const int64_t offset = valid ? a.OffsetOf(table, rows.kv_head, first + p) : 0;
    const Kv* keys = static_cast<const Kv*>(a.keys) + offset;
    const Kv* values = static_cast<const Kv*>(a.values) + offset;
    for (int d = lane; d < a.head_size; d += 32) {
      tile.keys[p * (a.head_size + 1) + d] = valid ? ToFloat(keys[d]) : 0;
      tile.values[p * a.head_size + d] = valid ? ToFloat(values[d]) : 0;
    }
  }
}

// A warp's rows: lanes share a row's columns, lane + 32 · c.
struct GenericState {
  float out[kWarpRows][kMostColumns / 32] = {};
  float maximum[kWarpRows];
  float sum[kWarpRows] = {};  // the same in every lane
  int position[kWarpRows];
};

__device__ float WarpMax(float x) {
  for (int distance = 16; distance > 0; distance /= 2) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
  }
  return x;
}

// Each lane scores one position for the warp's rows, then the softmax is folded by shuffles.
__device__ void FoldTile(const AttentionArguments& a, const GenericTile& tile, const float* q,
                         int first, GenericState& state) {
  const int lane = threadIdx.x % 32;
  const float* key = tile.keys + lane * (a.head_size + 1);
  float scores[kWarpRows] = {};
  for (int d = 0; d < a.head_size; ++d) {
    for (int r = 0; r < kWarpRows; ++r) scores[r] += q[r * a.head_size + d] * key[d];
  }
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float score = first + lane <= state.position[r] ? scores[r] * a.scale : -INFINITY;
    const float maximum = fmaxf(state.maximum[r], WarpMax(score));
    const float correction = Exp2(state.maximum[r] - maximum);
    scores[r] = Exp2(score - maximum);
    state.maximum[r] = maximum;
    state.sum[r] = state.sum[r] * correction + WarpSum(scores[r]);
    for (float& x : state.out[r]) x *= correction;
  }
  for (int p = 0; p < kPositions; ++p) {
    float weights[kWarpRows];
    for (int r = 0; r < kWarpRows; ++r) weights[r] = __shfl_sync(~0u, scores[r], p);
    const float* values = tile.values + p * a.head_size;
#pragma unroll
    for (int c = 0; c < kMostColumns / 32; ++c) {
      if (lane + 32 * c >= a.head_size) break;
      const float value = values[lane + 32 * c];
      for (int r = 0; r < kWarpRows; ++r) state.out[r][c] += weights[r] * value;
    }
  }
}

// A block per (16 rows, KV head), its warps with 4 rows each, over tiles of positions from the
// first one on: one order for decoding and prompts, so bits depend on the row's sequence alone.
template <typename Kv>
__global__ void __launch_bounds__(32 * kWarps)
    GenericKernel(const AttentionArguments a, const AttentionTypes types) {
  extern __shared__ float floats[];
  ReleaseSuccessor();
  WaitForPredecessor();
  const RowBlock rows = FindRowBlock<kRows>(a, 0);
  if (rows.sequence < 0) return;
  const GenericTile tile = {floats, floats + kRows * a.head_size,
                            floats + kRows * a.head_size + kPositions * (a.head_size + 1)};
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int first_row = rows.first_row + warp * kWarpRows;
  GenericState state;
  for (int r = 0; r < kWarpRows; ++r) {
    state.maximum[r] = -INFINITY;
    state.position[r] = rows.PositionOf(a, first_row + r);
    const bool valid = first_row + r < rows.end_row;
    const int64_t source = valid ? rows.OffsetOf(a, first_row + r, a.q_stride) : 0;
    for (int d = lane; d < a.head_size; d += 32) {
      tile.q[(warp * kWarpRows + r) * a.head_size + d] =
          valid ? LoadElement(a.q, types.q, source + d) : 0;
    }
  }
  const int32_t* table = a.TableOf(rows.sequence);
  for (int first = 0; first < rows.positions; first += kPositions) {
    __syncthreads();  // of the tile before, all has been read
    LoadTile<Kv>(a, rows, table, first, tile);
    __syncthreads();
    FoldTile(a, tile, tile.q + warp * kWarpRows * a.head_size, first, state);
  }
  for (int r = 0; r < kWarpRows; ++r) {
    if (first_row + r >= rows.end_row) break;
    const int64_t target = rows.OffsetOf(a, first_row + r, a.out_stride);
#pragma unroll
    for (int c = 0; c < kMostColumns / 32; ++c) {
      const int d = lane + 32 * c;
      if (d < a.head_size) {  // + 0: see StoreRows of prefill.cu
        StoreElement(a.out, types.out, target + d, state.out[r][c] / state.sum[r] + 0.0f);
      }
    }
  }
}

}  // namespace

void LaunchGenericAttention(const AttentionArguments& a, const AttentionTypes& types, int64_t rows,
                            CudaStream& stream) {
  CARAVAN_CHECK(a.head_size <= kMostColumns, "head size ", a.head_size, ", CUDA takes up to ",
                kMostColumns);
  const int shared =
      4 * (kRows * a.head_size + kPositions * (a.head_size + 1) + kPositions * a.head_size);
  WithType(types.kv, [&](auto kv) {
    using Kv = typename decltype(kv)::type;
    CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(GenericKernel<Kv>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    LaunchDependent(GenericKernel<Kv>,
                    {.grid = dim3(NumRowBlocks(a, 0, rows, kRows)),
                     .threads = 32 * kWarps,
                     .shared_bytes = static_cast<size_t>(shared)},
                    stream, a, types);
  });
}

}  // namespace caravan::cuda
