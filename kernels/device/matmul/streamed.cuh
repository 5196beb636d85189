// The kernel behind MultiplyStreamed (sm_90a): weights stream through rings in shared memory, which
// the tensor memory accelerator fills, to the warpgroups that multiply them with all tokens.
#pragma once

#include <algorithm>

#include "kernels/device/any_dtype.cuh"
#include "kernels/device/bulk_copy.cuh"
#include "kernels/device/cluster.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/silu.cuh"
#include "kernels/device/tensor_core.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/warpgroup.cuh"

namespace caravan::cuda {

constexpr int kGroupThreads = 128;
constexpr int kGroupRows = 64;    // of weights: those of one wgmma
constexpr int kProducers = 64;    // threads: a warp copies weights, a warp copies inputs
constexpr int kDepth = kBoxCols;  // inner elements of a chunk
constexpr int kGroupBytes = PanelTile<kGroupRows>::Bytes(kDepth);  // of a chunk

struct StreamedArgs {
  int tile_chunks;  // of a tile
  int tile_rows;    // of the weights, or of each half of them
  int tiles;
  int splits;  // blocks of a cluster, which share the chunks of a tile
  int groups;  // warpgroups that multiply, each with 64 rows of weights
  int panels;  // of a chunk, kDepth inner elements each
  int weight_slots;
  int input_slots;
  int pace;     // clocks between two chunks that are asked for before the predecessor's end
  int staging;  // bytes behind the rings for the sums of other blocks
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
struct StreamedRing {
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
  __device__ void Advance() {
    if (++slot == count) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// The block's share of the work: chunks [begin, end) of tiles first, first + step, …
struct StreamedShare {
  int first;
  int step;
  int begin;
  int end;

  __device__ explicit StreamedShare(const StreamedArgs& args)
      : first(blockIdx.x / args.splits), step(gridDim.x / args.splits) {
    const int rank = blockIdx.x % args.splits;
    begin = args.tile_chunks * rank / args.splits;
    end = args.tile_chunks * (rank + 1) / args.splits;
  }
  __device__ int tiles(const StreamedArgs& args) const {
    return (args.tiles - first + step - 1) / step;
  }
};

// Weights don't depend on earlier kernels: the first ones come before those have ended, at the
// memory's pace. Faster, the kernels that are still running would wait behind them.
__device__ inline void CopyWeights(const StreamedArgs& args, const CUtensorMap& weight,
                                   const StreamedShare& share, StreamedRing ring,
                                   const volatile int* ended) {
  const uint64_t policy = EvictFirst();
  int until_release = share.tiles(args) * (share.end - share.begin) - 1;
  const int64_t start = clock64();
  int64_t due = 0;
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
#pragma unroll 1
    for (int chunk = share.begin; chunk < share.end; ++chunk, due += args.pace) {
      while (clock64() - start < due && *ended == 0) {
      }
      ring.WaitUntilEmpty();
      ArriveExpecting(ring.full(), ring.bytes);
      for (int panel = 0; panel < args.panels; ++panel) {
        const uint32_t place = ring.data() + panel * args.groups * kGroupBytes;
        const int column = (chunk * args.panels + panel) * kDepth;
        if (args.gated) {
          CopyHalvesBox(place, weight, tile * args.tile_rows, column, ring.full(), policy);
        } else {
          CopyBox(place, weight, tile * args.tile_rows, column, ring.full(), policy);
        }
      }
      ring.Advance();
      if (until_release-- == 0) ReleaseSuccessor();
    }
  }
}

__device__ inline void CopyInputs(const StreamedArgs& args, const CUtensorMap& x,
                                  const StreamedShare& share, StreamedRing ring,
                                  volatile int* ended) {
  const uint64_t policy = EvictLast();
  WaitForPredecessor();
  *ended = 1;
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
#pragma unroll 1
    for (int chunk = share.begin; chunk < share.end; ++chunk) {
      ring.WaitUntilEmpty();
      ArriveExpecting(ring.full(), ring.bytes);
      for (int panel = 0; panel < args.panels; ++panel) {
        CopyBox(ring.data() + panel * (ring.bytes / args.panels), x, 0,
                (chunk * args.panels + panel) * kDepth, ring.full(), policy);
      }
      ring.Advance();
    }
  }
}

// A warp's sums of 16 rows of weights and kTokens tokens, as fragments of 8 tokens.
template <int kTokens>
using Sums = float[kTokens / 8][4];

// sums += weights · xᵀ over `chunks` chunks; a warpgroup has 64 rows of weights. The products of
// two panels are under way, so that chunks which wait are soon multiplied.
template <typename T, int kTokens>
__device__ __forceinline__ void MultiplyChunks(const StreamedArgs& args, int chunks,
                                               StreamedRing& weights, StreamedRing& inputs,
                                               Sums<kTokens>& sums) {
  const uint32_t rows = threadIdx.x / kGroupThreads * kGroupBytes;
  const bool releases = threadIdx.x % 32 == 0;
  uint32_t read_weights = 0;  // barriers of the chunk whose last products are under way, or 0
  uint32_t read_inputs = 0;
  uint32_t a = 0;
  uint32_t b = 0;
  int panel = 0;
  HoldRegisters(sums);
#pragma unroll 1
  for (int i = 0; i < chunks * args.panels; ++i) {
    if (panel == 0) {
      inputs.WaitUntilFull();
      weights.WaitUntilFull();
      a = weights.data() + rows;
      b = inputs.data();
    }
    FenceWarpgroup();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      AddRows<T>(sums, MatrixDescriptor(a + k * 32, 16), MatrixDescriptor(b + k * 32, 16));
    }
    CommitProducts();
    WaitForProducts<1>();
    if (releases && read_weights != 0) {
      Arrive(read_weights);
      Arrive(read_inputs);
    }
    read_weights = 0;
    a += args.groups * kGroupBytes;
    b += PanelTile<kTokens>::Bytes(kDepth);
    if (++panel == args.panels) {
      panel = 0;
      read_weights = weights.empty();
      read_inputs = inputs.empty();
      weights.Advance();
      inputs.Advance();
    }
  }
  WaitForProducts<0>();
  HoldRegisters(sums);
  if (releases && read_weights != 0) {
    Arrive(read_weights);
    Arrive(read_inputs);
  }
}

__device__ inline float BiasOf(const StreamedArgs& args, int64_t feature, int64_t offset) {
  if (args.bias == nullptr || feature >= args.features) return 0;
  return LoadElement(args.bias, args.bias_dtype, offset + feature);
}

// As SwiGlu of gate and up that have been rounded to T.
template <typename T>
__device__ __forceinline__ float Gate(float gate, float up) {
  return SiluMultiply(ToFloat(FromFloat<T>(gate)), ToFloat(FromFloat<T>(up)));
}

// Stores fragments [begin, end) of the warp's sums, of which those with `h` = 0 are the upper eight
// rows of weights. Lanes of neighbouring features exchange halves, so that each has two features of
// one token.
template <typename Out, int kTokens>
__device__ __forceinline__ void StoreRows(const StreamedArgs& args, int64_t feature, int h,
                                          int begin, int end, const Sums<kTokens>& sums) {
  const bool odd = threadIdx.x / 4 % 2 == 1;
  const int token = threadIdx.x % 4 * 2 + (odd ? 1 : 0);
  if (odd) --feature;
  Out* out = static_cast<Out*>(args.out) + token * args.out_stride + feature;
  const bool first = feature < args.features;
  const bool second = feature + 1 < args.features;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    const float own[2] = {sums[j][2 * h], sums[j][2 * h + 1]};
    const float others = __shfl_xor_sync(0xffffffff, odd ? own[0] : own[1], 4);
    Pack<Out, 2> pair;
    pair.element[0] = FromFloat<Out>(odd ? others : own[0]);
    pair.element[1] = FromFloat<Out>(odd ? own[1] : others);
    const bool valid = j >= begin && j < end && j * 8 + token < args.tokens;
    if (args.pairs) {
      if (valid && first) *reinterpret_cast<Pack<Out, 2>*>(out) = pair;
    } else {
      if (valid && first) out[0] = pair.element[0];
      if (valid && second) out[1] = pair.element[1];
    }
    out += 8 * args.out_stride;
  }
}

// The outputs of fragments [begin, end) of the warp's sums. Of a gated product the upper eight rows
// are the gate and the others what it gates.
template <typename T, typename Out, int kTokens>
__device__ __forceinline__ void StoreTile(const StreamedArgs& args, int tile, int begin, int end,
                                          Sums<kTokens>& sums) {
  const int row = static_cast<int>(threadIdx.x) / 32 * 16;
  const int lane_row = static_cast<int>(threadIdx.x) % 32 / 4;
  const int64_t base = int64_t{tile} * args.tile_rows;
  if (args.gated) {
    const int64_t feature = base + row / 2 + lane_row;
    const float gate = BiasOf(args, feature, 0);
    const float up = BiasOf(args, feature, args.features);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      sums[j][0] = Gate<T>(sums[j][0] + gate, sums[j][2] + up);
      sums[j][1] = Gate<T>(sums[j][1] + gate, sums[j][3] + up);
    }
    return StoreRows<Out, kTokens>(args, feature, 0, begin, end, sums);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t feature = base + row + 8 * h + lane_row;
    const float bias = BiasOf(args, feature, 0);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      sums[j][2 * h] += bias;
      sums[j][2 * h + 1] += bias;
    }
    StoreRows<Out, kTokens>(args, feature, h, begin, end, sums);
  }
}

// Each block of a cluster adds up and stores a part of the fragments: those from FirstOf(rank) on.
template <int kTokens>
struct FragmentShares {
  int splits;
  __device__ int FirstOf(int rank) const { return kTokens / 8 * rank / splits; }
  __device__ int OwnerOf(int j) const { return ((j + 1) * splits - 1) / (kTokens / 8); }
};

// Sends the sums to the blocks that add them up, and adds up this block's own in the order of k.
// The sums of block `rank` lie in the others' staging behind those of the blocks before it.
template <int kTokens>
__device__ void ReduceCluster(const StreamedArgs& args, float4* staging, Sums<kTokens>& sums) {
  const int threads = args.groups * kGroupThreads;
  const int rank = blockIdx.x % args.splits;
  const FragmentShares<kTokens> shares = {args.splits};
  const int most = (kTokens / 8 + args.splits - 1) / args.splits;  // fragments of a block
  const auto place = [&](int owner, int source, int j) {
    const int before = source < owner ? source : source - 1;
    return staging + (before * most + j - shares.FirstOf(owner)) * threads + threadIdx.x;
  };
  WaitForCluster();
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    const int owner = shares.OwnerOf(j);
    if (owner == rank) continue;
    StoreToCluster(place(owner, rank, j), owner,
                   make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]));
  }
  SynchronizeCluster();
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    if (shares.OwnerOf(j) != rank) continue;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int source = 0; source < args.splits; ++source) {
      const float4 part = source == rank
                              ? make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3])
                              : *place(rank, source, j);
      sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
    }
    sums[j][0] = sum.x;
    sums[j][1] = sum.y;
    sums[j][2] = sum.z;
    sums[j][3] = sum.w;
  }
}

template <typename T, int kTokens>
__device__ void Consume(const StreamedArgs& args, const StreamedShare& share, StreamedRing weights,
                        StreamedRing inputs, float4* staging) {
  WaitForPredecessor();
  const FragmentShares<kTokens> shares = {args.splits};
  const int rank = blockIdx.x % args.splits;
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
    Sums<kTokens> sums = {};
    MultiplyChunks<T, kTokens>(args, share.end - share.begin, weights, inputs, sums);
    if (args.splits > 1) ReduceCluster<kTokens>(args, staging, sums);
    const int begin = shares.FirstOf(rank);
    const int end = shares.FirstOf(rank + 1);
    if (args.out_dtype == DType::kFloat32) {
      StoreTile<T, float, kTokens>(args, tile, begin, end, sums);
    } else {
      StoreTile<T, T, kTokens>(args, tile, begin, end, sums);
    }
  }
}

#endif

// A block has up to 256 rows of weights, or a cluster of blocks has them and each block a part of
// k, so that all blocks read equally much and few inputs for it. A warp copies weights, a warp
// copies inputs, each as far ahead as its ring is deep; warpgroups multiply, weights being the rows
// of wgmma and tokens its columns. The sums depend on the matrix alone, not on the other tokens.
template <typename T, int kTokens>
__global__ void __maxnreg__(96)
    StreamedKernel(const StreamedArgs args, const __grid_constant__ CUtensorMap weight,
                   const __grid_constant__ CUtensorMap x) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char unaligned[];
  unsigned char* shared = unaligned + (0u - SharedAddress(unaligned)) % 1024;
  constexpr int kInputBytes = PanelTile<kTokens>::Bytes(kDepth);
  StreamedRing weights = {.slots = SharedAddress(shared),
                          .count = args.weight_slots,
                          .bytes = args.panels * args.groups * kGroupBytes};
  StreamedRing inputs = {.slots = weights.slots + weights.count * weights.bytes,
                         .count = args.input_slots,
                         .bytes = args.panels * kInputBytes};
  weights.barriers = inputs.slots + inputs.count * inputs.bytes;
  inputs.barriers = weights.barriers + 16 * weights.count;
  const int rings = inputs.barriers + 16 * inputs.count - weights.slots;
  float4* staging = reinterpret_cast<float4*>(shared + rings);
  auto* ended = reinterpret_cast<volatile int*>(shared + rings + args.staging);
  const int consumers = args.groups * kGroupThreads;
  if (threadIdx.x == consumers) {
    PrefetchMap(weight);
    PrefetchMap(x);
    weights.Init(consumers / 32);
    inputs.Init(consumers / 32);
    *ended = 0;
    PublishBarriers();
  }
  __syncthreads();
  if (args.splits > 1) ArriveAtCluster();  // this block runs, and others may write to it
  const StreamedShare share(args);
  if (threadIdx.x < consumers) {
    Consume<T, kTokens>(args, share, weights, inputs, staging);
  } else if (threadIdx.x == consumers) {
    CopyWeights(args, weight, share, weights, ended);
  } else if (threadIdx.x == consumers + 32) {
    CopyInputs(args, x, share, inputs, ended);
  }
#endif
}

}  // namespace caravan::cuda
