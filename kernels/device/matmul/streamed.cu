// Products of few tokens whose weights stream through shared memory (sm_90a): the multiprocessors
// take equal parts of all weights, whatever the matrix, and their copies never pause, not even
// between two products.
#include <algorithm>

#include "kernels/device/any_dtype.cuh"
#include "kernels/device/bulk_copy.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/matmul/paths.h"
#include "kernels/device/silu.cuh"
#include "kernels/device/tensor_core.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/warpgroup.cuh"

namespace caravan::cuda {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kGroupFeatures = 64;  // the rows of one wgmma
constexpr int kGroups = 2;          // that multiply
constexpr int kConsumers = kGroups * kGroupThreads;
constexpr int kThreads = kConsumers + 64;  // and a warp each that copies weights and inputs
constexpr int kFeatures = kGroups * kGroupFeatures;  // of a tile
constexpr int kDepth = kBoxCols;                     // inner elements of a chunk
constexpr int kLeastChunks = 4;                      // of a block

// Two blocks fit on a multiprocessor, so that the next product's can fill its ring while this one's
// is at its end, and leave room for what runs between them.
template <int kTokens_, int kWeightSlots_, int kInputSlots_>
struct StreamedShape {
  static constexpr int kTokens = kTokens_;
  static constexpr int kWeightSlots = kWeightSlots_;
  static constexpr int kInputSlots = kInputSlots_;
  static constexpr int kWeightBytes = PanelTile<kFeatures>::Bytes(kDepth);
  static constexpr int kInputBytes = PanelTile<kTokens>::Bytes(kDepth);
  static constexpr int kInputs = kWeightSlots * kWeightBytes;
  static constexpr int kBarriers = kInputs + kInputSlots * kInputBytes;
  static constexpr int kSharedBytes =
      kBarriers + 2 * 8 * (kWeightSlots + kInputSlots) + 1024;  // to align it
  static constexpr int kSums = kTokens / 8;  // fragments of a thread
};

// Chunks are numbered tile by tile, along k within one. Block b takes those from FirstOf(b) on.
struct StreamedArgs {
  int tile_chunks;  // of a tile
  int tile_rows;    // of the weights, or of each half of them
  int blocks;
  int chunks;  // of a block
  int longer;  // blocks with one more
  int early;
  int prefetch;
  int tokens;
  int64_t features;  // of the output
  bool gated;        // the weights are a gate's, then as many of what it gates
  const void* bias;  // or null
  DType bias_dtype;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  bool pairs;        // two outputs by one store
  float4* partials;  // [blocks][fragments of a tile]
  int* arrivals;     // [blocks], zero between products

  __device__ int FirstOf(int block) const { return block * chunks + min(block, longer); }
  __device__ int BlockOf(int chunk) const {
    const int before = longer * (chunks + 1);
    return chunk < before ? chunk / (chunks + 1) : longer + (chunk - before) / chunks;
  }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // the rest is sm_90a's alone

// A ring of slots in shared memory. Barrier `full` of a slot says that its copy is there, `empty`
// that the consumers have read it.
template <int kSlots, int kBytes>
struct Ring {
  uint32_t slots;
  uint32_t barriers;
  int slot = 0;
  int parity = 0;

  __device__ uint32_t data() const { return slots + slot * kBytes; }
  __device__ uint32_t full() const { return barriers + slot * 8; }
  __device__ uint32_t empty() const { return barriers + (kSlots + slot) * 8; }
  __device__ void Init() const {
    for (int i = 0; i < kSlots; ++i) {
      InitBarrier(barriers + i * 8, 1);
      InitBarrier(barriers + (kSlots + i) * 8, kConsumers / 32);
    }
  }
  // The producer finds the slots empty in its first round.
  __device__ void WaitUntilEmpty() const { WaitForPhase(empty(), parity ^ 1); }
  __device__ void WaitUntilFull() const { WaitForPhase(full(), parity); }
  __device__ void Release() const {
    if (threadIdx.x % 32 == 0) Arrive(empty());
  }
  __device__ void Advance() {
    if (++slot == kSlots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

template <typename Shape>
struct StreamedRings {
  Ring<Shape::kWeightSlots, Shape::kWeightBytes> weights;
  Ring<Shape::kInputSlots, Shape::kInputBytes> inputs;

  __device__ explicit StreamedRings(uint32_t base)
      : weights{base, base + Shape::kBarriers},
        inputs{base + Shape::kInputs, base + Shape::kBarriers + 16 * Shape::kWeightSlots} {}
};

// Where a chunk begins: its row in the weights, or in each half of them, and its column.
struct ChunkPlace {
  int row;
  int column;

  __device__ ChunkPlace(const StreamedArgs& args, int chunk)
      : row(chunk / args.tile_chunks * args.tile_rows), column(chunk % args.tile_chunks * kDepth) {}
  __device__ void Advance(const StreamedArgs& args) {
    column += kDepth;
    if (column == args.tile_chunks * kDepth) {
      column = 0;
      row += args.tile_rows;
    }
  }
};

// Brings `count` chunks into the L2 cache.
__device__ inline void PrefetchWeights(const StreamedArgs& args, const CUtensorMap& weight,
                                       ChunkPlace place, int count) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    if (args.gated) {
      PrefetchHalvesBox(weight, place.row, place.column);
    } else {
      PrefetchBox(weight, place.row, place.column);
    }
    place.Advance(args);
  }
}

// Weights don't depend on earlier kernels: the first ones come before those have ended. The next
// kernel starts when the last copies do, so that its own follow at once.
template <typename Shape>
__device__ void CopyWeights(const StreamedArgs& args, const CUtensorMap& weight, int begin, int end,
                            Ring<Shape::kWeightSlots, Shape::kWeightBytes> ring) {
  const uint64_t policy = EvictFirst();
  const int release = max(begin, end - 1 - args.early);
  const int ahead = begin + Shape::kWeightSlots;
  ChunkPlace place(args, begin);
#pragma unroll 1
  for (int chunk = begin; chunk < end; ++chunk) {
    if (chunk == ahead) PrefetchWeights(args, weight, place, min(end - ahead, args.prefetch));
    ring.WaitUntilEmpty();
    ArriveExpecting(ring.full(), Shape::kWeightBytes);
    if (args.gated) {
      CopyHalvesBox(ring.data(), weight, place.row, place.column, ring.full(), policy);
    } else {
      CopyBox(ring.data(), weight, place.row, place.column, ring.full(), policy);
    }
    ring.Advance();
    place.Advance(args);
    if (chunk == release) ReleaseSuccessor();
  }
}

template <typename Shape>
__device__ void CopyInputs(const StreamedArgs& args, const CUtensorMap& x, int begin, int end,
                           Ring<Shape::kInputSlots, Shape::kInputBytes> ring) {
  const uint64_t policy = EvictLast();
  ChunkPlace place(args, begin);
  WaitForPredecessor();
#pragma unroll 1
  for (int chunk = begin; chunk < end; ++chunk) {
    ring.WaitUntilEmpty();
    ArriveExpecting(ring.full(), Shape::kInputBytes);
    CopyBox(ring.data(), x, 0, place.column, ring.full(), policy);
    ring.Advance();
    place.Advance(args);
  }
}

// sums += weights · xᵀ over `chunks` chunks; a warpgroup has 64 rows of weights.
template <typename T, typename Shape>
__device__ __forceinline__ void MultiplyChunks(int chunks, StreamedRings<Shape>& rings,
                                               float (&sums)[Shape::kSums][4]) {
  const uint32_t rows = threadIdx.x / kGroupThreads * kGroupFeatures * 128;
#pragma unroll 1
  for (int i = 0; i < chunks; ++i) {
    rings.inputs.WaitUntilFull();
    rings.weights.WaitUntilFull();
    const uint32_t a = rings.weights.data() + rows;
    const uint32_t b = rings.inputs.data();
    HoldRegisters(sums);
    FenceWarpgroup();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      AddRows<T>(sums, MatrixDescriptor(a + k * 32, 16), MatrixDescriptor(b + k * 32, 16));
    }
    CommitProducts();
    WaitForProducts<0>();
    HoldRegisters(sums);
    rings.weights.Release();
    rings.inputs.Release();
    rings.weights.Advance();
    rings.inputs.Advance();
  }
}

// A part of a tile's k that another block begins: that block adds it.
template <typename Shape>
__device__ void StorePart(const StreamedArgs& args, int first_block,
                          const float (&sums)[Shape::kSums][4]) {
  float4* place = args.partials + blockIdx.x * Shape::kSums * kConsumers + threadIdx.x;
#pragma unroll
  for (int j = 0; j < Shape::kSums; ++j) {
    __stcg(place + j * kConsumers, make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]));
  }
  SyncThreads(1, kConsumers);
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(args.arrivals + first_block, 1);
  }
}

// Adds what the `parts` next blocks have of this block's last tile, in the order of k.
template <typename Shape>
__device__ void AddParts(const StreamedArgs& args, int parts, float (&sums)[Shape::kSums][4]) {
  if (threadIdx.x == 0) {
    int* arrivals = args.arrivals + blockIdx.x;
    int count = 0;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(arrivals) : "memory");
    } while (count < parts);
    *arrivals = 0;
  }
  SyncThreads(1, kConsumers);
#pragma unroll 1
  for (int part = 1; part <= parts; ++part) {
    const float4* place =
        args.partials + (blockIdx.x + part) * Shape::kSums * kConsumers + threadIdx.x;
#pragma unroll
    for (int j = 0; j < Shape::kSums; ++j) {
      if (j % 4 == 0) asm volatile("" ::: "memory");  // more loads at once would take registers
      const float4 more = __ldcg(place + j * kConsumers);
      sums[j][0] += more.x;
      sums[j][1] += more.y;
      sums[j][2] += more.z;
      sums[j][3] += more.w;
    }
  }
}

__device__ inline float BiasOf(const StreamedArgs& args, int64_t feature, int64_t offset) {
  if (args.bias == nullptr || feature >= args.features) return 0;
  return LoadElement(args.bias, args.bias_dtype, offset + feature);
}

// `values` are those of this lane's feature for tokens `token` and the next. Lanes of neighbouring
// features exchange halves, so that each has two features of one token.
__device__ __forceinline__ void StorePairs(const StreamedArgs& args, int64_t feature, int token,
                                           float first, float second) {
  const bool odd = threadIdx.x / 4 % 2 == 1;
  const float others = __shfl_xor_sync(0xffffffff, odd ? first : second, 4);
  const float pair[2] = {odd ? others : first, odd ? second : others};
  if (odd) {
    --feature;
    ++token;
  }
  if (token >= args.tokens || feature >= args.features) return;
  const int64_t index = token * args.out_stride + feature;
  if (args.pairs) return StoreElements<2>(args.out, args.out_dtype, index, pair);
  StoreElement(args.out, args.out_dtype, index, pair[0]);
  if (feature + 1 < args.features) StoreElement(args.out, args.out_dtype, index + 1, pair[1]);
}

// As SwiGlu of gate and up that have been rounded to T.
template <typename T>
__device__ __forceinline__ float Gate(float gate, float up) {
  return SiluMultiply(ToFloat(FromFloat<T>(gate)), ToFloat(FromFloat<T>(up)));
}

// The tile's outputs. Of a gated one a lane has the gate and, eight rows further, what it gates.
template <typename T, typename Shape>
__device__ void StoreTile(const StreamedArgs& args, int tile,
                          const float (&sums)[Shape::kSums][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int token = lane % 4 * 2;
  asm volatile("" : "+r"(token));  // else all places are computed ahead, in registers it has not
  if (args.gated) {
    const int64_t feature = int64_t{tile} * (kFeatures / 2) + warp * 8 + lane / 4;
    const float gate = BiasOf(args, feature, 0);
    const float up = BiasOf(args, feature, args.features);
#pragma unroll
    for (int j = 0; j < Shape::kSums; ++j) {
      StorePairs(args, feature, j * 8 + token, Gate<T>(sums[j][0] + gate, sums[j][2] + up),
                 Gate<T>(sums[j][1] + gate, sums[j][3] + up));
    }
    return;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t feature = int64_t{tile} * kFeatures + warp * 16 + h * 8 + lane / 4;
    const float bias = BiasOf(args, feature, 0);
#pragma unroll
    for (int j = 0; j < Shape::kSums; ++j) {
      StorePairs(args, feature, j * 8 + token, sums[j][2 * h] + bias, sums[j][2 * h + 1] + bias);
    }
  }
}

template <typename T, typename Shape>
__device__ void Consume(const StreamedArgs& args, int begin, int end, StreamedRings<Shape> rings) {
  WaitForPredecessor();
  for (int chunk = begin; chunk < end;) {
    const int tile = chunk / args.tile_chunks;
    const int tile_begin = tile * args.tile_chunks;
    const int tile_end = tile_begin + args.tile_chunks;
    const int piece_end = min(end, tile_end);
    float sums[Shape::kSums][4] = {};
    MultiplyChunks<T, Shape>(piece_end - chunk, rings, sums);
    if (chunk > tile_begin) {
      StorePart<Shape>(args, args.BlockOf(tile_begin), sums);
    } else {
      if (piece_end < tile_end) {
        AddParts<Shape>(args, args.BlockOf(tile_end - 1) - blockIdx.x, sums);
      }
      StoreTile<T, Shape>(args, tile, sums);
    }
    chunk = piece_end;
  }
}

#endif

// One block on each multiprocessor. A warp copies weights, a warp copies inputs, each as far ahead
// as its ring is deep; two warpgroups multiply, weights being the rows of wgmma and tokens its
// columns. A tile whose k is shared by several blocks is added up by the first of them, in the
// order of k: the sums depend on the matrix and the number of multiprocessors alone.
template <typename T, typename Shape>
__global__ void __maxnreg__(72)
    StreamedKernel(const StreamedArgs args, const __grid_constant__ CUtensorMap weight,
                   const __grid_constant__ CUtensorMap x) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char unaligned[];
  const StreamedRings<Shape> rings((SharedAddress(unaligned) + 1023) / 1024 * 1024);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == kConsumers) {
    PrefetchMap(weight);
    PrefetchMap(x);
    rings.weights.Init();
    rings.inputs.Init();
    PublishBarriers();
  }
  __syncthreads();
  const int begin = args.FirstOf(blockIdx.x);
  const int end = args.FirstOf(blockIdx.x + 1);
  if (warp < kConsumers / 32) {
    Consume<T, Shape>(args, begin, end, rings);
  } else if (threadIdx.x == kConsumers) {
    CopyWeights<Shape>(args, weight, begin, end, rings.weights);
  } else if (threadIdx.x == kConsumers + 32) {
    CopyInputs<Shape>(args, x, begin, end, rings.inputs);
  }
#endif
}

template <typename T, typename Shape>
void Launch(const MatmulArgs& args, const StreamedTuning& tuning, CudaStream& stream) {
  const auto kernel = StreamedKernel<T, Shape>;
  CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          Shape::kSharedBytes));
  const int64_t tile_chunks = (args.x.cols + kDepth - 1) / kDepth;
  const bool gated = args.weight.out_features != args.out.cols;
  const int64_t chunks = (args.weight.out_features + kFeatures - 1) / kFeatures * tile_chunks;
  const int64_t blocks = std::min<int64_t>(stream.device().num_multiprocessors,
                                           (chunks + kLeastChunks - 1) / kLeastChunks);
  const StreamedArgs kernel_args = {
      .tile_chunks = static_cast<int>(tile_chunks),
      .tile_rows = gated ? kFeatures / 2 : kFeatures,
      .blocks = static_cast<int>(blocks),
      .chunks = static_cast<int>(chunks / blocks),
      .longer = static_cast<int>(chunks % blocks),
      .early = tuning.early,
      .prefetch = tuning.prefetch,
      .tokens = static_cast<int>(args.x.rows),
      .features = args.out.cols,
      .gated = gated,
      .bias = args.bias.data,
      .bias_dtype = args.bias.dtype,
      .out = args.out.data,
      .out_dtype = args.out.dtype,
      .out_stride = args.out.row_stride,
      .pairs = IsAligned16(args.out.data) && args.out.cols % 2 == 0 && args.out.row_stride % 2 == 0,
      .partials = static_cast<float4*>(stream.workspace()),
      .arrivals = stream.counters()};
  const ConstMatrixView weight =
      DenseMatrix(args.weight.data, args.weight.dtype, args.weight.out_features, args.x.cols);
  LaunchDependent(kernel,
                  {.grid = dim3(static_cast<unsigned>(blocks)),
                   .threads = kThreads,
                   .shared_bytes = Shape::kSharedBytes},
                  stream, kernel_args,
                  gated ? MakeHalvesTensorMap(weight, kFeatures) : MakeTensorMap(weight, kFeatures),
                  MakeTensorMap(args.x, Shape::kTokens));
}

template <typename T>
void Launch(const MatmulArgs& args, const StreamedTuning& tuning, CudaStream& stream) {
  if (tuning.deep) {
    if (args.x.rows <= 8) return Launch<T, StreamedShape<8, 12, 8>>(args, tuning, stream);
    return Launch<T, StreamedShape<64, 10, 4>>(args, tuning, stream);
  }
  if (args.x.rows <= 8) return Launch<T, StreamedShape<8, 6, 8>>(args, tuning, stream);
  if (args.x.rows <= 16) return Launch<T, StreamedShape<16, 6, 4>>(args, tuning, stream);
  if (args.x.rows <= 32) return Launch<T, StreamedShape<32, 5, 6>>(args, tuning, stream);
  Launch<T, StreamedShape<64, 5, 3>>(args, tuning, stream);
}

}  // namespace

void MultiplyStreamed(const MatmulArgs& args, const StreamedTuning& tuning, CudaStream& stream) {
  if (args.x.dtype == DType::kFloat16) {
    Launch<__half>(args, tuning, stream);
  } else {
    Launch<__nv_bfloat16>(args, tuning, stream);
  }
}

}  // namespace caravan::cuda
