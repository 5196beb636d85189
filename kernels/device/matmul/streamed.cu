// Products of few tokens whose weights stream through shared memory (sm_90a): one deep ring of
// copies on each multiprocessor keeps the memory busy, also while the kernel before ends.
#include <algorithm>
#include <cmath>

#include "kernels/device/any_dtype.cuh"
#include "kernels/device/bulk_copy.cuh"
#include "kernels/device/cluster.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/matmul/paths.h"
#include "kernels/device/silu.cuh"
#include "kernels/device/tensor_core.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/warpgroup.cuh"

namespace caravan::cuda {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kGroupRows = 64;   // of weights: those of one wgmma
constexpr int kMostGroups = 4;   // a box has up to 256 rows
constexpr int kProducers = 64;   // threads: a warp copies weights, a warp copies inputs
constexpr int kDepth = kBoxCols;  // inner elements of a chunk
constexpr int kGroupBytes = PanelTile<kGroupRows>::Bytes(kDepth);  // of a chunk
constexpr int kMostSplits = 8;  // a portable cluster

struct StreamedArgs {
  int tile_chunks;  // of a tile
  int tile_rows;    // of the weights, or of each half of them
  int tiles;
  int splits;  // blocks of a cluster, which share the chunks of a tile
  int groups;  // warpgroups that multiply, each with 64 rows of weights
  int weight_slots;
  int input_slots;
  int early;         // the successor starts so many chunks before the last one is asked for
  int tokens;
  int64_t features;  // of the output
  bool gated;        // the weights are a gate's, then as many of what it gates
  const void* bias;  // or null
  DType bias_dtype;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  bool pairs;  // two outputs by one store
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // the rest is sm_90a's alone

// A ring of slots in shared memory. Barrier `full` of a slot says that its copy is there, `empty`
// that the consumers have read it.
struct Ring {
  uint32_t slots;
  uint32_t barriers;
  int count;
  int bytes;  // of a slot
  int slot = 0;
  int parity = 0;

  __device__ uint32_t data() const { return slots + slot * bytes; }
  __device__ uint32_t full() const { return barriers + slot * 16; }
  __device__ uint32_t empty() const { return full() + 8; }
  __device__ void Init(int consumer_warps) const {
    for (int i = 0; i < count; ++i) {
      InitBarrier(barriers + i * 16, 1);
      InitBarrier(barriers + i * 16 + 8, consumer_warps);
    }
  }
  // The producer finds the slots empty in its first round.
  __device__ void WaitUntilEmpty() const { WaitForPhase(empty(), parity ^ 1); }
  __device__ void WaitUntilFull() const { WaitForPhase(full(), parity); }
  __device__ void Release() const {
    if (threadIdx.x % 32 == 0) Arrive(empty());
  }
  __device__ void Advance() {
    if (++slot == count) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// The block's share of the work: chunks [begin, end) of tiles first, first + step, …
struct Share {
  int first;
  int step;
  int begin;
  int end;

  __device__ explicit Share(const StreamedArgs& args)
      : first(blockIdx.x / args.splits), step(gridDim.x / args.splits) {
    const int rank = blockIdx.x % args.splits;
    begin = args.tile_chunks * rank / args.splits;
    end = args.tile_chunks * (rank + 1) / args.splits;
  }
  __device__ int tiles(const StreamedArgs& args) const {
    return (args.tiles - first + step - 1) / step;
  }
};

// Weights don't depend on earlier kernels: the first ones come before those have ended.
__device__ inline void CopyWeights(const StreamedArgs& args, const CUtensorMap& weight,
                                   const Share& share, Ring ring) {
  const uint64_t policy = EvictFirst();
  int until_release = max(0, share.tiles(args) * (share.end - share.begin) - 1 - args.early);
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
#pragma unroll 1
    for (int chunk = share.begin; chunk < share.end; ++chunk) {
      ring.WaitUntilEmpty();
      ArriveExpecting(ring.full(), ring.bytes);
      if (args.gated) {
        CopyHalvesBox(ring.data(), weight, tile * args.tile_rows, chunk * kDepth, ring.full(),
                      policy);
      } else {
        CopyBox(ring.data(), weight, tile * args.tile_rows, chunk * kDepth, ring.full(), policy);
      }
      ring.Advance();
      if (until_release-- == 0) ReleaseSuccessor();
    }
  }
}

__device__ inline void CopyInputs(const StreamedArgs& args, const CUtensorMap& x,
                                  const Share& share, Ring ring) {
  const uint64_t policy = EvictLast();
  WaitForPredecessor();
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
#pragma unroll 1
    for (int chunk = share.begin; chunk < share.end; ++chunk) {
      ring.WaitUntilEmpty();
      ArriveExpecting(ring.full(), ring.bytes);
      CopyBox(ring.data(), x, 0, chunk * kDepth, ring.full(), policy);
      ring.Advance();
    }
  }
}

// A warp's sums of 16 rows of weights and kTokens tokens, as fragments of 8 tokens.
template <int kTokens>
using Sums = float[kTokens / 8][4];

// sums += weights · xᵀ over `chunks` chunks; a warpgroup has 64 rows of weights.
template <typename T, int kTokens>
__device__ __forceinline__ void MultiplyChunks(int chunks, Ring& weights, Ring& inputs,
                                               Sums<kTokens>& sums) {
  const uint32_t rows = threadIdx.x / kGroupThreads * kGroupBytes;
#pragma unroll 1
  for (int i = 0; i < chunks; ++i) {
    inputs.WaitUntilFull();
    weights.WaitUntilFull();
    const uint32_t a = weights.data() + rows;
    const uint32_t b = inputs.data();
    HoldRegisters(sums);
    FenceWarpgroup();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      AddRows<T>(sums, MatrixDescriptor(a + k * 32, 16), MatrixDescriptor(b + k * 32, 16));
    }
    CommitProducts();
    WaitForProducts<0>();
    HoldRegisters(sums);
    weights.Release();
    inputs.Release();
    weights.Advance();
    inputs.Advance();
  }
}

__device__ inline float BiasOf(const StreamedArgs& args, int64_t feature, int64_t offset) {
  if (args.bias == nullptr || feature >= args.features) return 0;
  return LoadElement(args.bias, args.bias_dtype, offset + feature);
}

// `first` and `second` are those of this lane's feature for tokens `token` and the next. Lanes of
// neighbouring features exchange halves, so that each has two features of one token.
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

// The outputs of a fragment: 8 tokens from `token` on and the 16 rows of warp `warp`. Of a gated
// product the upper eight are the gate and the others what it gates.
template <typename T>
__device__ __forceinline__ void StoreFragment(const StreamedArgs& args, int tile, int warp,
                                              int token, const float (&sum)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  token += lane % 4 * 2;
  if (args.gated) {
    const int64_t feature = int64_t{tile} * args.tile_rows + warp * 8 + lane / 4;
    const float gate = BiasOf(args, feature, 0);
    const float up = BiasOf(args, feature, args.features);
    StorePairs(args, feature, token, Gate<T>(sum[0] + gate, sum[2] + up),
               Gate<T>(sum[1] + gate, sum[3] + up));
    return;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t feature = int64_t{tile} * args.tile_rows + warp * 16 + h * 8 + lane / 4;
    const float bias = BiasOf(args, feature, 0);
    StorePairs(args, feature, token, sum[2 * h] + bias, sum[2 * h + 1] + bias);
  }
}

// Adds up what the blocks of the cluster have, in the order of k, and stores this block's share.
// The sums lie in the rings, whose slots have all been read.
template <typename T, int kTokens>
__device__ void ReduceAndStore(const StreamedArgs& args, int tile, float4* shared,
                               const Sums<kTokens>& sums) {
  const int threads = args.groups * kGroupThreads;
  SyncThreads(1, threads);
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    shared[j * threads + threadIdx.x] =
        make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]);
  }
  SynchronizeCluster();
  const int warps = threads / 32;
  const int fragments = warps * (kTokens / 8);
  const int rank = blockIdx.x % args.splits;
  const int end = fragments * (rank + 1) / args.splits;
  for (int i = fragments * rank / args.splits + threadIdx.x / 32; i < end; i += warps) {
    const float4* place = shared + i * 32 + threadIdx.x % 32;
    float sum[4] = {};
#pragma unroll 4
    for (int split = 0; split < args.splits; ++split) {
      const float4 part = LoadFromCluster(place, split);
      sum[0] += part.x;
      sum[1] += part.y;
      sum[2] += part.z;
      sum[3] += part.w;
    }
    StoreFragment<T>(args, tile, i % warps, i / warps * 8, sum);
  }
  SynchronizeCluster();  // no block leaves while others read its sums
}

template <typename T, int kTokens>
__device__ void Consume(const StreamedArgs& args, const Share& share, Ring weights, Ring inputs,
                        float4* shared) {
  WaitForPredecessor();
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
    Sums<kTokens> sums = {};
    MultiplyChunks<T, kTokens>(share.end - share.begin, weights, inputs, sums);
    if (args.splits > 1) return ReduceAndStore<T, kTokens>(args, tile, shared, sums);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      StoreFragment<T>(args, tile, threadIdx.x / 32, j * 8, sums[j]);
    }
  }
}

#endif

// A block has up to 256 rows of weights, or a cluster of blocks has them and each block a part of
// k, so that all blocks read equally much and few inputs for it. A warp copies weights, a warp
// copies inputs, each as far ahead as its ring is deep; warpgroups multiply, weights being the rows
// of wgmma and tokens its columns. The sums depend on the matrix alone, not on the other tokens.
template <typename T, int kTokens>
__global__ void __maxnreg__(80)
    StreamedKernel(const StreamedArgs args, const __grid_constant__ CUtensorMap weight,
                   const __grid_constant__ CUtensorMap x) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char unaligned[];
  unsigned char* shared = unaligned + (0u - SharedAddress(unaligned)) % 1024;
  constexpr int kInputBytes = PanelTile<kTokens>::Bytes(kDepth);
  Ring weights = {.slots = SharedAddress(shared),
                  .count = args.weight_slots,
                  .bytes = args.groups * kGroupBytes};
  Ring inputs = {.slots = weights.slots + weights.count * weights.bytes,
                 .count = args.input_slots,
                 .bytes = kInputBytes};
  weights.barriers = inputs.slots + inputs.count * inputs.bytes;
  inputs.barriers = weights.barriers + 16 * weights.count;
  const int consumers = args.groups * kGroupThreads;
  if (threadIdx.x == consumers) {
    PrefetchMap(weight);
    PrefetchMap(x);
    weights.Init(consumers / 32);
    inputs.Init(consumers / 32);
    PublishBarriers();
  }
  __syncthreads();
  const Share share(args);
  if (threadIdx.x < consumers) {
    Consume<T, kTokens>(args, share, weights, inputs, reinterpret_cast<float4*>(shared));
  } else if (threadIdx.x == consumers) {
    CopyWeights(args, weight, share, weights);
  } else if (threadIdx.x == consumers + 32) {
    CopyInputs(args, x, share, inputs);
  }
#endif
}

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T, int kTokens>
void Launch(const MatmulArgs& args, const StreamedPlan& plan, CudaStream& stream) {
  const auto kernel = StreamedKernel<T, kTokens>;
  constexpr int kInputBytes = PanelTile<kTokens>::Bytes(kDepth);
  const bool gated = args.weight.out_features != args.out.cols;
  const int rows = plan.groups * kGroupRows;
  const int weight_bytes = plan.groups * kGroupBytes;
  const int64_t chunks = DivideUp(args.x.cols, kDepth);
  const int64_t tiles = DivideUp(args.weight.out_features, rows);
  const int64_t most_slots = DivideUp(chunks, plan.splits) * (plan.splits > 1 ? 1 : 1024);
  const int input_slots = plan.input_slots;
  int weight_slots = (plan.shared_bytes - 2048 - input_slots * (kInputBytes + 16)) / (weight_bytes + 16);
  weight_slots = std::max(2, static_cast<int>(std::min<int64_t>(weight_slots, most_slots)));
  const int sums_bytes = plan.splits > 1 ? kTokens / 8 * plan.groups * kGroupThreads * 16 : 0;
  const int ring_bytes = weight_slots * (weight_bytes + 16) + input_slots * (kInputBytes + 16);
  const int shared_bytes = std::max(ring_bytes, sums_bytes) + 1024;  // to align it
  CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          227 * 1024));
  const int64_t blocks = plan.splits > 1
                             ? tiles * plan.splits
                             : std::min<int64_t>(tiles, stream.device().num_multiprocessors);
  const StreamedArgs kernel_args = {
      .tile_chunks = static_cast<int>(chunks),
      .tile_rows = gated ? rows / 2 : rows,
      .tiles = static_cast<int>(tiles),
      .splits = plan.splits,
      .groups = plan.groups,
      .weight_slots = weight_slots,
      .input_slots = input_slots,
      .early = plan.early,
      .tokens = static_cast<int>(args.x.rows),
      .features = args.out.cols,
      .gated = gated,
      .bias = args.bias.data,
      .bias_dtype = args.bias.dtype,
      .out = args.out.data,
      .out_dtype = args.out.dtype,
      .out_stride = args.out.row_stride,
      .pairs = IsAligned16(args.out.data) && args.out.cols % 2 == 0 && args.out.row_stride % 2 == 0};
  const ConstMatrixView weight =
      DenseMatrix(args.weight.data, args.weight.dtype, args.weight.out_features, args.x.cols);
  LaunchDependent(kernel,
                  {.grid = dim3(static_cast<unsigned>(blocks)),
                   .threads = plan.groups * kGroupThreads + kProducers,
                   .shared_bytes = static_cast<size_t>(shared_bytes),
                   .cluster = plan.splits},
                  stream, kernel_args,
                  gated ? MakeHalvesTensorMap(weight, rows) : MakeTensorMap(weight, rows),
                  MakeTensorMap(args.x, kTokens));
}

template <typename T>
void Launch(const MatmulArgs& args, const StreamedPlan& plan, CudaStream& stream) {
  if (args.x.rows <= 8) return Launch<T, 8>(args, plan, stream);
  if (args.x.rows <= 16) return Launch<T, 16>(args, plan, stream);
  if (args.x.rows <= 32) return Launch<T, 32>(args, plan, stream);
  Launch<T, 64>(args, plan, stream);
}

}  // namespace

StreamedPlan PlanStreamed(const MatmulArgs& args, const CudaStream& stream) {
  const int64_t multiprocessors = stream.device().num_multiprocessors;
  const int64_t chunks = DivideUp(args.x.cols, kDepth);
  StreamedPlan best;
  double best_score = -1;
  for (int groups = 1; groups <= kMostGroups; ++groups) {
    const int64_t tiles = DivideUp(args.weight.out_features, groups * kGroupRows);
    for (int splits = 1; splits <= kMostSplits; splits *= 2) {
      if (splits > 1 && (chunks < 4 * splits || tiles * splits > multiprocessors)) continue;
      const double waves = static_cast<double>(tiles * splits) / static_cast<double>(multiprocessors);
      const double busy = waves <= 1 ? waves : waves / std::ceil(waves);
      // A block reads its tokens' inputs once for all of its rows.
      const double inputs = 0.14 * static_cast<double>(args.x.rows) / 64 * 2 / groups;
      const double score = busy / (1 + inputs) - 0.02 * (splits > 1) - 0.004 * splits;
      if (score > best_score) {
        best_score = score;
        best.groups = groups;
        best.splits = splits;
      }
    }
  }
  return best;
}

void MultiplyStreamed(const MatmulArgs& args, const StreamedPlan& plan, CudaStream& stream) {
  if (args.x.dtype == DType::kFloat16) {
    Launch<__half>(args, plan, stream);
  } else {
    Launch<__nv_bfloat16>(args, plan, stream);
  }
}

}  // namespace caravan::cuda
