// Prefill attention after FlashAttention-2 (Dao 2023, arXiv:2307.08691) over paged KV: a block
// keeps its query rows and walks along the positions they see, in tiles from the first one on, so
// that the bits of a row do not depend on what else is in its batch.
#include "kernels/device/attention/arguments.cuh"
#include "kernels/device/attention/online_softmax.cuh"
#include "kernels/device/cuda_check.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

// Each warp has kRowTiles x 16 rows: two where the registers suffice, since each fragment of keys
// and values that is loaded then serves both. Shared memory: queries, two stages of keys and
// values, so that copies run one tile ahead.
template <int kCols>
struct PrefillShape {
  static constexpr int kRowTiles = kCols > 128 ? 1 : 2;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr int kPositions = kCols > 128 ? 32 : 64;
  static constexpr int kQueryBytes = SwizzledTile<kCols>::Bytes(kRows);
  static constexpr int kTileBytes = SwizzledTile<kCols>::Bytes(kPositions);
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kSharedBytes = kQueryBytes + 2 * kStageBytes;
};

template <typename T, int kCols>
__device__ void CopyQueries(const AttentionArguments& a, const RowBlock& block, uint32_t shared) {
  using Tile = SwizzledTile<kCols>;
  constexpr int kChunks = PrefillShape<kCols>::kRows * Tile::kChunks;
#pragma unroll 4
  for (int i = threadIdx.x; i < kChunks; i += kThreads) {
    const int row = i / Tile::kChunks;
    const int chunk = i % Tile::kChunks;
    const bool valid = block.first_row + row < block.end_row && chunk * 8 < a.head_size;
    const int64_t source =
        valid ? block.OffsetOf(a, block.first_row + row, a.q_stride) + chunk * 8 : 0;
    CopyAsync16(shared + Tile::Offset(row, chunk), static_cast<const T*>(a.q) + source, valid);
  }
}

// Copies one chunk of keys and of values of a row, which begin at `source` elements. Positions that
// no row sees are zeroed: what lies in the cache there may be anything, NaN too.
template <typename T, int kCols>
__device__ void CopyChunk(const AttentionArguments& a, int64_t source, int index, int visible,
                          uint32_t shared) {
  using Tile = SwizzledTile<kCols>;
  const int row = index / Tile::kChunks;
  const int chunk = index % Tile::kChunks;
  const bool valid = row < visible && chunk * 8 < a.head_size;
  const uint32_t to = shared + Tile::Offset(row, chunk);
  CopyAsync16(to, static_cast<const T*>(a.keys) + source + chunk * 8, valid);
  CopyAsync16(to + PrefillShape<kCols>::kTileBytes,
              static_cast<const T*>(a.values) + source + chunk * 8, valid);
}

// Starts to copy the keys and values of the positions from `first` on.
template <typename T, int kCols>
__device__ void CopyTile(const AttentionArguments& a, const RowBlock& block, const int32_t* table,
                         const TileOffsets<PrefillShape<kCols>::kPositions>& offsets, int first,
                         uint32_t shared) {
  constexpr int kChunks = SwizzledTile<kCols>::kChunks;
  constexpr int kCopies = PrefillShape<kCols>::kPositions * kChunks / kThreads;
  const int visible = block.positions - first;
  const int thread = static_cast<int>(threadIdx.x);
  if (offsets.Serve(a)) {
#pragma unroll 4  // more would spill what the products need
    for (int i = 0; i < kCopies; ++i) {
      const int index = i * kThreads + thread;
      CopyChunk<T, kCols>(a, offsets.Of(a, index / kChunks), index, visible, shared);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kCopies; ++i) {
    const int index = i * kThreads + thread;
    const int position = min(first + index / kChunks, block.positions - 1);
    CopyChunk<T, kCols>(a, a.OffsetOf(table, block.kv_head, position), index, visible, shared);
  }
}

// What a warp knows of its rows, in fragments: of each of the row tiles rows lane / 4 and lane / 4
// + 8.
template <int kCols>
struct PrefillState {
  static constexpr int kRowTiles = PrefillShape<kCols>::kRowTiles;

  float out[kRowTiles][kCols / 8][4];
  SoftmaxRows rows[kRowTiles];
  int position[kRowTiles][2];
};

template <int kCols>
using Scores = float[PrefillShape<kCols>::kRowTiles][PrefillShape<kCols>::kPositions / 8][4];

template <int kCols>
__device__ void StartRows(const AttentionArguments& a, const RowBlock& block, int first_row,
                          PrefillState<kCols>& state) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < state.kRowTiles; ++m) {
#pragma unroll
    for (auto& fragment : state.out[m]) {
      for (float& x : fragment) x = 0;
    }
    for (int h = 0; h < 2; ++h) {
      state.position[m][h] = block.PositionOf(a, first_row + m * 16 + h * 8 + lane / 4);
    }
  }
}

template <typename T, int kCols>
__device__ void ScoreTile(uint32_t queries, uint32_t keys, Scores<kCols>& scores) {
  using Shape = PrefillShape<kCols>;
  const FragmentAddress<kCols> rows = AddressOfA<kCols>(threadIdx.x % 32);
  const FragmentAddress<kCols> columns = AddressOfColumnsB<kCols>(threadIdx.x % 32);
#pragma unroll
  for (int k = 0; k < kCols / 16; ++k) {
    uint32_t q[Shape::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < Shape::kRowTiles; ++m) LoadFragment(rows.At(queries, m, k), q[m]);
#pragma unroll
    for (int n = 0; n < Shape::kPositions / 16; ++n) {
      uint32_t b[4];
      LoadFragment(columns.At(keys, n, k), b);
#pragma unroll
      for (int m = 0; m < Shape::kRowTiles; ++m) {
        MultiplyAdd<T>(scores[m][2 * n], q[m], b[0], b[1]);
        MultiplyAdd<T>(scores[m][2 * n + 1], q[m], b[2], b[3]);
      }
    }
  }
}

// -inf where a row must not look: positions after its own.
template <int kCols>
__device__ void MaskTile(const PrefillState<kCols>& state, int first, Scores<kCols>& scores) {
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int m = 0; m < state.kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < PrefillShape<kCols>::kPositions / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (column + n * 8 + i % 2 > state.position[m][i / 2]) scores[m][n][i] = -INFINITY;
      }
    }
  }
}

// Makes weights of the scores. A row's first tile has a position that it sees.
template <int kCols>
__device__ void FoldTile(float scale, PrefillState<kCols>& state, Scores<kCols>& scores) {
#pragma unroll
  for (int m = 0; m < state.kRowTiles; ++m) {
    float correction[2];
    FoldScores(scale, scores[m], state.rows[m], correction);
    Correct(correction, state.out[m]);
  }
}

template <typename T, int kCols>
__device__ void WeighValues(const Scores<kCols>& scores, uint32_t values,
                            PrefillState<kCols>& state) {
  using Shape = PrefillShape<kCols>;
  const FragmentAddress<kCols> rows = AddressOfRowsB<kCols>(threadIdx.x % 32);
#pragma unroll
  for (int k = 0; k < Shape::kPositions / 16; ++k) {
    uint32_t weights[Shape::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < Shape::kRowTiles; ++m) PackWeights<T>(scores[m], k, weights[m]);
#pragma unroll
    for (int n = 0; n < kCols / 16; ++n) {
      uint32_t b[4];
      LoadTransposed(rows.At(values, k, n), b);
#pragma unroll
      for (int m = 0; m < Shape::kRowTiles; ++m) {
        MultiplyAdd<T>(state.out[m][2 * n], weights[m], b[0], b[1]);
        MultiplyAdd<T>(state.out[m][2 * n + 1], weights[m], b[2], b[3]);
      }
    }
  }
}

// Through shared memory, in place of the warp's own queries, so that rows leave in 16-byte chunks.
// The sign of a zero may depend on tiles that a row does not see: adding 0 makes it one.
template <typename T, int kCols>
__device__ void StoreRows(const AttentionArguments& a, const RowBlock& block, int first_row,
                          PrefillState<kCols>& state, unsigned char* memory) {
  using Tile = SwizzledTile<kCols>;
  const int lane = threadIdx.x % 32;
  __syncwarp();  // all lanes have read the queries
#pragma unroll
  for (int m = 0; m < state.kRowTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float factor = 1 / state.rows[m].Total(h);
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
        const float* pair = &state.out[m][n][2 * h];
        *reinterpret_cast<uint32_t*>(memory + Tile::Offset(m * 16 + h * 8 + lane / 4, n) +
                                     lane % 4 * 4) =
            PackPair<T>(pair[0] * factor + 0.0f, pair[1] * factor + 0.0f);
      }
    }
  }
  __syncwarp();
  for (int i = lane; i < state.kRowTiles * 16 * Tile::kChunks; i += 32) {
    const int row = i / Tile::kChunks;
    const int chunk = i % Tile::kChunks;
    if (first_row + row >= block.end_row || chunk * 8 >= a.head_size) continue;
    T* out = static_cast<T*>(a.out) + block.OffsetOf(a, first_row + row, a.out_stride);
    *reinterpret_cast<uint4*>(out + chunk * 8) =
        *reinterpret_cast<const uint4*>(memory + Tile::Offset(row, chunk));
  }
}

// A block per (tile of rows, KV head): rows share the tiles of keys and values. Scores stay in
// registers: they are the fragments that weigh the values.
template <typename T, int kCols>
__global__ void __launch_bounds__(kThreads, kCols > 128 ? 1 : 2)
    PrefillKernel(const AttentionArguments a, int first_sequence) {
  using Shape = PrefillShape<kCols>;
  extern __shared__ __align__(128) unsigned char memory[];
  ReleaseSuccessor();
  WaitForPredecessor();
  const RowBlock block = FindRowBlock<Shape::kRows>(a, first_sequence);
  if (block.sequence < 0) return;
  const int32_t* table = a.TableOf(block.sequence);
  const uint32_t shared = SharedAddress(memory);
  CopyQueries<T, kCols>(a, block, shared);
  TileOffsets<Shape::kPositions> offsets;
  offsets.Load(a, table, block.kv_head, 0, block.positions);
  CopyTile<T, kCols>(a, block, table, offsets, 0, shared + Shape::kQueryBytes);
  CommitCopies();
  offsets.Load(a, table, block.kv_head, Shape::kPositions, block.positions);

  constexpr int kWarpRows = Shape::kRowTiles * 16;
  const int warp = threadIdx.x / 32;
  const int first_row = block.first_row + warp * kWarpRows;
  const uint32_t queries = shared + warp * SwizzledTile<kCols>::Bytes(kWarpRows);
  const int end_row = min(first_row + kWarpRows, block.end_row);
  const int first_position = block.PositionOf(a, first_row);
  // Positions that the warp's last row sees; none where it has no row.
  const int warp_positions = end_row > first_row ? block.PositionOf(a, end_row - 1) + 1 : 0;
  PrefillState<kCols> state;
  StartRows(a, block, first_row, state);
  for (int first = 0, stage = 0; first < block.positions; first += Shape::kPositions, stage ^= 1) {
    WaitForCopies<0>();
    __syncthreads();  // the tile is there, and the other stage is free
    const int next = first + Shape::kPositions;
    if (next < block.positions) {
      CopyTile<T, kCols>(a, block, table, offsets, next,
                         shared + Shape::kQueryBytes + (stage ^ 1) * Shape::kStageBytes);
      CommitCopies();
      offsets.Load(a, table, block.kv_head, next + Shape::kPositions, block.positions);
    }
    if (first >= warp_positions) continue;
    const uint32_t keys = shared + Shape::kQueryBytes + stage * Shape::kStageBytes;
    Scores<kCols> scores = {};
    ScoreTile<T, kCols>(queries, keys, scores);
    if (first + Shape::kPositions > first_position + 1) MaskTile<kCols>(state, first, scores);
    FoldTile<kCols>(a.scale, state, scores);
    WeighValues<T, kCols>(scores, keys + Shape::kTileBytes, state);
  }
  if (warp_positions == 0) return;
  StoreRows<T, kCols>(a, block, first_row, state,
                      memory + warp * SwizzledTile<kCols>::Bytes(kWarpRows));
}

template <typename T, int kCols>
void LaunchShape(const AttentionArguments& a, int32_t first, int64_t rows, CudaStream& stream) {
  using Shape = PrefillShape<kCols>;
  CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(
      PrefillKernel<T, kCols>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  LaunchDependent(PrefillKernel<T, kCols>,
                  {.grid = dim3(NumRowBlocks(a, first, rows, Shape::kRows)),
                   .threads = kThreads,
                   .shared_bytes = Shape::kSharedBytes},
                  stream, a, first);
}

template <typename T>
void Launch(const AttentionArguments& a, int32_t first, int64_t rows, CudaStream& stream) {
  if (a.head_size <= 64) {
    LaunchShape<T, 64>(a, first, rows, stream);
  } else if (a.head_size <= 96) {
    LaunchShape<T, 96>(a, first, rows, stream);
  } else if (a.head_size <= 128) {
    LaunchShape<T, 128>(a, first, rows, stream);
  } else {
    LaunchShape<T, 256>(a, first, rows, stream);
  }
}

}  // namespace

void LaunchPrefillAttention(const AttentionArguments& arguments, DType dtype, int32_t first,
                            int64_t rows, CudaStream& stream) {
  if (dtype == DType::kFloat16) {
    Launch<__half>(arguments, first, rows, stream);
  } else {
    Launch<__nv_bfloat16>(arguments, first, rows, stream);
  }
}

}  // namespace caravan::cuda
