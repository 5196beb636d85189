// Prefill attention on Hopper's warpgroups after FlashAttention-3 (Shah et al. 2024,
// arXiv:2407.08608): one warpgroup copies tiles of keys and values, two multiply, each with 64 rows
// of its own, so that one's softmax runs while the other multiplies. Tiles come from the first one
// on, so that the bits of a row do not depend on what else is in its batch.
#include "kernels/device/attention/arguments.cuh"
#include "kernels/device/attention/online_softmax.cuh"
#include "kernels/device/cuda_check.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_core.cuh"
#include "kernels/device/warpgroup.cuh"

namespace caravan::cuda {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2;
constexpr int kThreads = (1 + kConsumers) * kGroupThreads;
constexpr int kGroupRows = 64;
constexpr int kRows = kConsumers * kGroupRows;
constexpr int kPositions = 128;  // of a tile

// The items that the producer copies: keys of tile 0, values of tile 0, keys of tile 1, … Item i
// lies in slot i % kSlots; barrier `full` of the slot says that it is there, `empty` that the
// consumers have read it.
constexpr int kSlots = 6;

template <int kCols>
struct HopperShape {
  static constexpr int kQueryBytes = PanelTile<kGroupRows>::Bytes(kCols);  // of one group
  static constexpr int kItemBytes = PanelTile<kPositions>::Bytes(kCols);
  static constexpr int kBarriers = kConsumers * kQueryBytes + kSlots * kItemBytes;
  static constexpr int kSharedBytes = kBarriers + 2 * kSlots * 8 + 1024;  // to align it
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // the rest is sm_90a's alone

// Addresses in shared memory.
template <int kCols>
struct HopperMemory {
  using Shape = HopperShape<kCols>;
  uint32_t base;  // aligned to 1,024 bytes

  __device__ uint32_t Queries(int consumer) const { return base + consumer * Shape::kQueryBytes; }
  __device__ uint32_t Item(int item) const {
    return base + kConsumers * Shape::kQueryBytes + item % kSlots * Shape::kItemBytes;
  }
  __device__ uint32_t Full(int item) const { return base + Shape::kBarriers + item % kSlots * 8; }
  __device__ uint32_t Empty(int item) const { return Full(item) + kSlots * 8; }
  // For products: the copies were other threads' writes.
  __device__ void WaitUntilFull(int item) const {
    WaitForPhase(Full(item), item / kSlots & 1);
    PublishToProducts();
  }
  // By one lane of each consumer warp: its products have read the item.
  __device__ void Release(int item) const {
    if (threadIdx.x % 32 == 0) Arrive(Empty(item));
  }
};

// Copies tiles of keys and values, by one warpgroup.
template <typename T, int kCols>
class Producer {
 public:
  __device__ Producer(const AttentionArguments& a, const RowBlock& block,
                      const HopperMemory<kCols>& memory)
      : a_(a), block_(block), memory_(memory), table_(a.TableOf(block.sequence)) {}

  __device__ void Produce(int tiles) {
    offsets_.Load(a_, table_, block_.kv_head, 0, block_.positions);
    for (int tile = 0; tile < tiles; ++tile) {
      StartItem(2 * tile, a_.keys);
      StartItem(2 * tile + 1, a_.values);
      const int next = (tile + 1) * kPositions;
      offsets_.Load(a_, table_, block_.kv_head, next, block_.positions);
    }
    WaitForCopies<0>();  // none may be under way when the threads end
  }

 private:
  static constexpr int kChunks = kCols / 8;
  static constexpr int kRowStep = kGroupThreads / kChunks;

  __device__ void StartItem(int item, const void* source) {
    if (item >= kSlots) WaitForPhase(memory_.Empty(item), (item / kSlots - 1) & 1);
    CopyItem(static_cast<const T*>(source), item / 2 * kPositions, memory_.Item(item));
    ArriveAfterCopies(memory_.Full(item));
    CommitCopies();
  }
  __device__ void CopyItem(const T* source, int first, uint32_t shared) const {
    const int first_row = threadIdx.x % kGroupThreads / kChunks;
    if (TileOffsets<kPositions>::Serve(a_)) {
#pragma unroll 8
      for (int row = first_row; row < kPositions; row += kRowStep) {
        CopyChunk(source + offsets_.Of(a_, row), row, first, shared);
      }
      return;
    }
#pragma unroll 1
    for (int row = first_row; row < kPositions; row += kRowStep) {
      const int position = min(first + row, block_.positions - 1);
      CopyChunk(source + a_.OffsetOf(table_, block_.kv_head, position), row, first, shared);
    }
  }
  // Positions that no row sees are zeroed: what lies in the cache there may be anything, NaN too.
  __device__ void CopyChunk(const T* source, int row, int first, uint32_t shared) const {
    const int chunk = threadIdx.x % kChunks;
    const bool valid = first + row < block_.positions && chunk * 8 < a_.head_size;
    CopyAsync16(shared + PanelTile<kPositions>::Offset(row, chunk), source + chunk * 8, valid);
  }

  const AttentionArguments& a_;
  const RowBlock& block_;
  const HopperMemory<kCols>& memory_;
  const int32_t* table_;
  TileOffsets<kPositions> offsets_;
};

// A consumer's rows in its warps' fragments: rows lane / 4 and lane / 4 + 8 of 16 a warp.
template <int kCols>
struct ConsumerState {
  float out[kCols / 8][4] = {};
  SoftmaxRows rows;
  int position[2];
};

template <typename T, int kCols>
__device__ void CopyQueries(const AttentionArguments& a, const RowBlock& block, int first_row,
                            uint32_t shared) {
  constexpr int kChunks = kCols / 8;
  for (int i = threadIdx.x % kGroupThreads; i < kGroupRows * kChunks; i += kGroupThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const bool valid = first_row + row < block.end_row && chunk * 8 < a.head_size;
    const int64_t source = valid ? block.OffsetOf(a, first_row + row, a.q_stride) + chunk * 8 : 0;
    CopyAsync16(shared + PanelTile<kGroupRows>::Offset(row, chunk),
                static_cast<const T*>(a.q) + source, valid);
  }
  CommitCopies();
  WaitForCopies<0>();
  PublishToProducts();
}

// Starts scores = queries · keysᵀ.
template <typename T, int kCols>
__device__ __forceinline__ void StartScores(uint32_t queries, uint32_t keys,
                                            float (&scores)[16][4]) {
  HoldRegisters(scores);
  FenceWarpgroup();
#pragma unroll
  for (int k = 0; k < kCols / 16; ++k) {
    const uint32_t a = queries + k / 4 * PanelTile<kGroupRows>::kPanelBytes + k % 4 * 32;
    const uint32_t b = keys + k / 4 * PanelTile<kPositions>::kPanelBytes + k % 4 * 32;
    MultiplyRows<T>(scores, MatrixDescriptor(a, 16), MatrixDescriptor(b, 16), k > 0);
  }
  CommitProducts();
}

// Starts out += weights · values.
template <typename T, int kCols>
__device__ __forceinline__ void StartValues(const uint32_t (&weights)[kPositions / 16][4],
                                            uint32_t values, float (&out)[kCols / 8][4]) {
  HoldRegisters(out);
  FenceWarpgroup();
#pragma unroll
  for (int k = 0; k < kPositions / 16; ++k) {
    AddProduct<T>(out, weights[k],
                  MatrixDescriptor(values + k * 16 * 128, PanelTile<kPositions>::kPanelBytes));
  }
  CommitProducts();
}

// -inf where a row must not look: positions after its own.
template <int kCols>
__device__ __forceinline__ void MaskTile(const ConsumerState<kCols>& state, int first,
                                         float (&scores)[16][4]) {
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int n = 0; n < kPositions / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + n * 8 + i % 2 > state.position[i / 2]) scores[n][i] = -INFINITY;
    }
  }
}

// Makes weights of a tile's scores; what was weighed before is to be multiplied by `correction`.
template <int kCols>
__device__ __forceinline__ void FoldTile(float scale, int tile, float (&scores)[16][4],
                                         ConsumerState<kCols>& state, float (&correction)[2]) {
  const int whole = min(state.position[0], state.position[1]) + 1;  // seen by both rows
  if ((tile + 1) * kPositions > whole) MaskTile(state, tile * kPositions, scores);
  FoldScores(scale, scores, state.rows, correction);
}

template <typename T>
__device__ __forceinline__ void PackTile(const float (&scores)[16][4],
                                         uint32_t (&weights)[kPositions / 16][4]) {
#pragma unroll
  for (int k = 0; k < kPositions / 16; ++k) PackWeights<T>(scores, k, weights[k]);
}

// Through shared memory, in place of the queries, so that rows leave in 16-byte chunks. The sign
// of a zero may depend on tiles that a row does not see: adding 0 makes it one.
template <typename T, int kCols>
__device__ void StoreRows(const AttentionArguments& a, const RowBlock& block, int first_row,
                          const ConsumerState<kCols>& state, unsigned char* memory) {
  using Tile = PanelTile<kGroupRows>;
  const int lane = threadIdx.x % 32;
  const int warp_row = threadIdx.x % kGroupThreads / 32 * 16;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float factor = 1 / state.rows.Total(h);
#pragma unroll
    for (int n = 0; n < kCols / 8; ++n) {
      const float* pair = &state.out[n][2 * h];
      *reinterpret_cast<uint32_t*>(memory + Tile::Offset(warp_row + h * 8 + lane / 4, n) +
                                   lane % 4 * 4) =
          PackPair<T>(pair[0] * factor + 0.0f, pair[1] * factor + 0.0f);
    }
  }
  __syncwarp();
  constexpr int kChunks = kCols / 8;
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = warp_row + i / kChunks;
    const int chunk = i % kChunks;
    if (first_row + row >= block.end_row || chunk * 8 >= a.head_size) continue;
    T* out = static_cast<T*>(a.out) + block.OffsetOf(a, first_row + row, a.out_stride);
    *reinterpret_cast<uint4*>(out + chunk * 8) =
        *reinterpret_cast<const uint4*>(memory + Tile::Offset(row, chunk));
  }
}

// The consumers take turns to start products: while one's run the other computes its softmax,
// rather than both their products at once and then both their softmaxes.
struct Turns {
  int group;  // 1 or 2
  bool taken;

  __device__ static int BarrierOf(int group) { return kConsumers + group; }
  __device__ void Begin() const {
    if (taken && group == 2) ArriveAt(BarrierOf(1), kConsumers * kGroupThreads);
  }
  __device__ void Take() const {
    if (taken) SyncThreads(BarrierOf(group), kConsumers * kGroupThreads);
  }
  __device__ void Pass(bool last) const {
    if (taken && !(last && group == 2)) {
      ArriveAt(BarrierOf(3 - group), kConsumers * kGroupThreads);
    }
  }
};

// All tiles that the rows see. The scores of a tile are under way together with the values of the
// tile before, which are weighed while the softmax of the scores is computed.
template <typename T, int kCols>
__device__ __forceinline__ void Consume(float scale, const HopperMemory<kCols>& memory,
                                        const Turns& turns, int tiles,
                                        ConsumerState<kCols>& state) {
  const uint32_t queries = memory.Queries(turns.group - 1);
  float scores[16][4];
  uint32_t weights[kPositions / 16][4];
  float correction[2];
  turns.Begin();
  memory.WaitUntilFull(0);
  turns.Take();
  StartScores<T, kCols>(queries, memory.Item(0), scores);
  turns.Pass(tiles == 1);
  WaitForProducts<0>();
  HoldRegisters(scores);
  memory.Release(0);
  FoldTile(scale, 0, scores, state, correction);
  PackTile<T>(scores, weights);
  for (int tile = 1; tile < tiles; ++tile) {
    memory.WaitUntilFull(2 * tile);
    memory.WaitUntilFull(2 * tile - 1);
    turns.Take();
    StartScores<T, kCols>(queries, memory.Item(2 * tile), scores);
    StartValues<T, kCols>(weights, memory.Item(2 * tile - 1), state.out);
    turns.Pass(tile == tiles - 1);
    WaitForProducts<1>();
    HoldRegisters(scores);
    memory.Release(2 * tile);
    FoldTile(scale, tile, scores, state, correction);
    WaitForProducts<0>();
    HoldRegisters(state.out);
    memory.Release(2 * tile - 1);
    Correct(correction, state.out);
    PackTile<T>(scores, weights);
  }
  memory.WaitUntilFull(2 * tiles - 1);
  StartValues<T, kCols>(weights, memory.Item(2 * tiles - 1), state.out);
  WaitForProducts<0>();
  HoldRegisters(state.out);
  memory.Release(2 * tiles - 1);
}

#endif

// A block per (tile of rows, KV head): rows share the tiles of keys and values. Scores stay in
// registers: they are the fragments that weigh the values.
template <typename T, int kCols>
__global__ void __launch_bounds__(kThreads, 1)
    HopperPrefillKernel(const AttentionArguments a, int first_sequence) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Shape = HopperShape<kCols>;
  extern __shared__ unsigned char unaligned[];
  const HopperMemory<kCols> memory = {(SharedAddress(unaligned) + 1023) / 1024 * 1024};
  ReleaseSuccessor();
  WaitForPredecessor();
  const RowBlock block = FindRowBlock<kRows>(a, first_sequence);
  if (block.sequence < 0) return;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kSlots; ++slot) {
      InitBarrier(memory.Full(slot), kGroupThreads);
      InitBarrier(memory.Empty(slot), kConsumers * kGroupThreads / 32);
    }
  }
  __syncthreads();
  const int tiles = (block.positions + kPositions - 1) / kPositions;
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
  if (group == 0) {
    ReleaseRegisters<40>();
    Producer<T, kCols>(a, block, memory).Produce(tiles);
    return;
  }
  ClaimRegisters<232>();
  const int first_row = block.first_row + (group - 1) * kGroupRows;
  const int end_row = min(first_row + kGroupRows, block.end_row);
  int own_tiles = 0;
  if (end_row > first_row) {
    // A tile that a row does not see changes nothing; with turns both need as many.
    const Turns turns = {group, block.end_row - block.first_row > kGroupRows};
    own_tiles = turns.taken ? tiles : (block.PositionOf(a, end_row - 1) + kPositions) / kPositions;
    const uint32_t queries = memory.Queries(group - 1);
    CopyQueries<T, kCols>(a, block, first_row, queries);
    SyncThreads(group, kGroupThreads);
    ConsumerState<kCols> state;
    for (int h = 0; h < 2; ++h) {
      const int row = threadIdx.x % kGroupThreads / 32 * 16 + h * 8 + threadIdx.x % 32 / 4;
      state.position[h] = block.PositionOf(a, first_row + row);
    }
    Consume<T, kCols>(a.scale, memory, turns, own_tiles, state);
    SyncThreads(group, kGroupThreads);  // the queries have been read
    StoreRows<T, kCols>(a, block, first_row, state,
                        unaligned + (queries - SharedAddress(unaligned)));
  }
  for (int item = 2 * own_tiles; item < 2 * tiles; ++item) {
    memory.WaitUntilFull(item);
    memory.Release(item);
  }
#endif
}

template <typename T, int kCols>
void Launch(const AttentionArguments& a, int32_t first, int64_t rows, CudaStream& stream) {
  using Shape = HopperShape<kCols>;
  CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(HopperPrefillKernel<T, kCols>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          Shape::kSharedBytes));
  LaunchDependent(HopperPrefillKernel<T, kCols>,
                  {.grid = dim3(NumRowBlocks(a, first, rows, kRows)),
                   .threads = kThreads,
                   .shared_bytes = Shape::kSharedBytes},
                  stream, a, first);
}

}  // namespace

void LaunchHopperPrefillAttention(const AttentionArguments& arguments, DType dtype, int32_t first,
                                  int64_t rows, CudaStream& stream) {
  const bool narrow = arguments.head_size <= 64;
  if (dtype == DType::kFloat16) {
    narrow ? Launch<__half, 64>(arguments, first, rows, stream)
           : Launch<__half, 128>(arguments, first, rows, stream);
  } else {
    narrow ? Launch<__nv_bfloat16, 64>(arguments, first, rows, stream)
           : Launch<__nv_bfloat16, 128>(arguments, first, rows, stream);
  }
}

}  // namespace caravan::cuda
