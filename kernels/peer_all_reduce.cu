#include <algorithm>

#include "kernels/device/cuda_check.h"
#include "kernels/device/peer.cuh"
#include "kernels/peer_all_reduce.h"

namespace caravan::cuda {
namespace {

constexpr int kThreads = 512;
// For each of PeerView::max_blocks; the packs of many ranks take the registers of two.
template <int kRanks>
constexpr int kBlocksAtOnce = kRanks == 2 ? 2 : 1;

__device__ int64_t FirstIndex() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ int64_t Stride() { return int64_t{gridDim.x} * kThreads; }

// One thread per 16 bytes, which it sends to all ranks and then sums of all ranks: the latency of
// one way, no barrier. What comes next is on its way before the last is waited for.
template <typename T, int kRanks>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<kRanks>)
    SumEverywhereKernel(const __grid_constant__ PeerView peers, T* x, int64_t count, bool aligned) {
  ReleaseSuccessor(peers);
  WaitForPredecessor();
  const int64_t packs = (count + kVector<T> - 1) / kVector<T>;
  const int64_t slot = peers.region_bytes / peers.world_size / 16;
  int64_t i = FirstIndex();
  // Its latency and that of the counter are one.
  uint4 pack = i < packs ? Sendable(LoadPack(x, i, count, aligned)) : uint4{};
  const Turn turn = BeginTurn(peers);
  if (turn.aborted) return;
  uint4* const slots = RegionOf(peers, turn, peers.rank);
  if (i < packs) PushToAll<kRanks>(peers, turn, peers.rank * slot + i, pack);
  while (i < packs) {
    uint4 addends[kRanks];
#pragma unroll
    for (int r = 0; r < kRanks; ++r) addends[r] = pack;
    const int64_t next = i + Stride();
    if (next < packs) {
      pack = Sendable(LoadPack(x, next, count, aligned));
      PushToAll<kRanks>(peers, turn, peers.rank * slot + next, pack);
    }
    if (!ReceiveFromAll<kRanks>(peers, slots + i, slot, addends)) return;
    StorePack(x, i, count, aligned, SumPack<T, kRanks>(peers, addends));
    i = next;
  }
}

// Rank r owns the r-th part of the packs. One thread per pack of a part: sends the addend of each
// part to its owner, sums the own part, sends the sum to all, and takes the others' sums.
template <typename T, int kRanks>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<kRanks>)
    SumPartsKernel(const __grid_constant__ PeerView peers, T* x, int64_t count, bool aligned) {
  ReleaseSuccessor(peers);
  WaitForPredecessor();
  const Turn turn = BeginTurn(peers);
  if (turn.aborted) return;
  const int64_t packs = (count + kVector<T> - 1) / kVector<T>;
  const int64_t part = (packs + peers.world_size - 1) / peers.world_size;
  const int64_t sums = part * peers.world_size;  // where the sums begin, after the addends' slots
  const auto part_size = [&](int owner) { return min(part, packs - owner * part); };
  uint4* const region = RegionOf(peers, turn, peers.rank);
  for (int step = 1; step < peers.world_size; ++step) {
    const int owner = (peers.rank + step) % peers.world_size;
    uint4* const slot = RegionOf(peers, turn, owner) + peers.rank * part;
    for (int64_t i = FirstIndex(); i < part_size(owner); i += Stride()) {
      StoreVolatile(slot + i, Sendable(LoadPack(x, owner * part + i, count, aligned)));
    }
  }
  for (int64_t i = FirstIndex(); i < part_size(peers.rank); i += Stride()) {
    const int64_t at = peers.rank * part + i;
    uint4 addends[kRanks];
    const uint4 pack = Sendable(LoadPack(x, at, count, aligned));
#pragma unroll
    for (int r = 0; r < kRanks; ++r) addends[r] = pack;
    if (!ReceiveFromAll<kRanks>(peers, region + i, part, addends)) return;
    const uint4 sum = Sendable(SumPack<T, kRanks>(peers, addends));
    PushToAll<kRanks>(peers, turn, sums + at, sum);
    StorePack(x, at, count, aligned, sum);
  }
  for (int step = 1; step < peers.world_size; ++step) {
    const int owner = (peers.rank + step) % peers.world_size;
    for (int64_t i = FirstIndex(); i < part_size(owner); i += Stride()) {
      const int64_t at = owner * part + i;
      uint4 sum;
      if (!Receive(peers, region + sums + at, sum)) return;
      StorePack(x, at, count, aligned, sum);
    }
  }
}

// A pack of the dense elements [first, first + count) of a shard to its place in all columns.
template <typename T>
__device__ void PlaceColumns(T* full, int rank, int64_t cols, int64_t stride, int64_t first,
                             int64_t elements, bool aligned, uint4 value) {
  const int64_t row = first / cols;
  const int64_t column = first % cols;
  if (aligned) {  // then packs do not cross rows
    *reinterpret_cast<uint4*>(full + row * stride + rank * cols + column) = value;
    return;
  }
  const auto pack = *reinterpret_cast<const Pack<T, kVector<T>>*>(&value);
  for (int64_t k = 0; k < min(int64_t{kVector<T>}, elements); ++k) {
    full[(first + k) / cols * stride + rank * cols + (first + k) % cols] = pack.element[k];
  }
}

// One thread per 16 bytes of a shard: sends them to all ranks, then puts those of all ranks in
// their places. Bytes are only moved, so T stands for a size.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<2>)
    GatherColumnsKernel(const __grid_constant__ PeerView peers, const T* shard, T* full,
                        int64_t cols, int64_t first, int64_t count, bool aligned) {
  ReleaseSuccessor(peers);
  WaitForPredecessor();
  const Turn turn = BeginTurn(peers);
  if (turn.aborted) return;
  const int64_t packs = (count + kVector<T> - 1) / kVector<T>;
  const int64_t slot = peers.region_bytes / peers.world_size / 16;
  const int64_t stride = cols * peers.world_size;
  const auto place = [&](int rank, int64_t i, uint4 pack) {
    PlaceColumns(full, rank, cols, stride, first + i * kVector<T>, count - i * kVector<T>, aligned,
                 pack);
  };
  for (int64_t i = FirstIndex(); i < packs; i += Stride()) {
    const uint4 pack = Sendable(LoadPack(shard + first, i, count, aligned));
    PushToAll<kMostPeers>(peers, turn, peers.rank * slot + i, pack);
    place(peers.rank, i, pack);
  }
  uint4* const region = RegionOf(peers, turn, peers.rank);
  for (int step = 1; step < peers.world_size; ++step) {
    const int from = (peers.rank + step) % peers.world_size;
    for (int64_t i = FirstIndex(); i < packs; i += Stride()) {
      uint4 pack;
      if (!Receive(peers, region + from * slot + i, pack)) return;
      place(from, i, pack);
    }
  }
}

// One thread per element: for sums of what was gathered, where speed is not asked for.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    SumInRankOrderKernel(const T* addends, int world_size, T* out, int64_t count) {
  ReleaseSuccessor();
  WaitForPredecessor();
  for (int64_t i = FirstIndex(); i < count; i += Stride()) {
    float sum = ToFloat(addends[i]);
    for (int r = 1; r < world_size; ++r) sum += ToFloat(addends[r * count + i]);
    out[i] = FromFloat<T>(sum);
  }
}

// Never more than run at once: a block that waits for a peer's keeps its place.
unsigned int BlocksFor(const PeerView& peers, int64_t packs, int at_once) {
  const int64_t wanted = (packs + kThreads - 1) / kThreads;
  return static_cast<unsigned int>(std::min<int64_t>(wanted, int64_t{peers.max_blocks} * at_once));
}

// Both kernels take at most so many bytes a launch.
int64_t MostBytesOfALaunch(const PeerView& peers, bool parts) {
  const int64_t slot = peers.region_bytes / peers.world_size;
  // Of a region the addends take one half and the sums the other, each up to world_size - 1 packs
  // more than x has.
  return parts ? peers.region_bytes / 2 - 16 * kMostPeers : slot / 16 * 16;
}

template <typename T, int kRanks>
void LaunchSum(const PeerView& peers, T* x, int64_t count, CudaStream& stream) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  const bool parts = bytes > MostBytesSummedEverywhere(peers.world_size);
  const auto kernel = parts ? SumPartsKernel<T, kMostPeers> : SumEverywhereKernel<T, kRanks>;
  const int64_t step = MostBytesOfALaunch(peers, parts) / static_cast<int64_t>(sizeof(T));
  for (int64_t first = 0; first < count; first += step) {
    const int64_t size = std::min(step, count - first);
    const int64_t packs = (size + kVector<T> - 1) / kVector<T>;
    const int64_t work = parts ? packs / peers.world_size + 1 : packs;
    LaunchPeer(kernel, {BlocksFor(peers, work, kBlocksAtOnce<kRanks>), kThreads}, stream, peers,
               x + first, size, IsAligned16(x + first));
  }
}

template <typename T>
void LaunchGather(const PeerView& peers, ConstMatrixView shard, MatrixView full,
                  CudaStream& stream) {
  const int64_t count = shard.rows * shard.cols;
  const int64_t step =
      peers.region_bytes / peers.world_size / 16 * 16 / static_cast<int64_t>(sizeof(T));
  const bool aligned =
      IsAligned16(shard.data) && IsAligned16(full.data) && shard.cols % kVector<T> == 0;
  for (int64_t first = 0; first < count; first += step) {
    const int64_t size = std::min(step, count - first);
    const int64_t packs = (size + kVector<T> - 1) / kVector<T>;
    LaunchPeer(GatherColumnsKernel<T>, {BlocksFor(peers, packs, kBlocksAtOnce<2>), kThreads},
               stream, peers, static_cast<const T*>(shard.data), static_cast<T*>(full.data),
               shard.cols, first, size, aligned);
  }
}

}  // namespace

void PeerAllReduceSum(const PeerView& peers, MatrixView x, CudaStream& stream) {
  CARAVAN_CHECK_EQ(x.row_stride, x.cols);
  if (x.empty() || peers.world_size == 1) return;
  WithType(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto launch = peers.world_size == 2 ? LaunchSum<T, 2> : LaunchSum<T, kMostPeers>;
    launch(peers, static_cast<T*>(x.data), x.rows * x.cols, stream);
  });
}

void PeerGatherColumns(const PeerView& peers, ConstMatrixView shard, MatrixView full,
                       CudaStream& stream) {
  CARAVAN_CHECK_EQ(shard.row_stride, shard.cols);
  CARAVAN_CHECK_EQ(full.row_stride, full.cols);
  CARAVAN_CHECK_EQ(full.rows, shard.rows);
  CARAVAN_CHECK_EQ(full.cols, shard.cols * peers.world_size);
  CARAVAN_CHECK(full.dtype == shard.dtype);
  if (shard.empty()) return;
  if (SizeOf(shard.dtype) == 4) {
    LaunchGather<uint32_t>(peers, shard, full, stream);
  } else {
    LaunchGather<uint16_t>(peers, shard, full, stream);
  }
}

void SumInRankOrder(const void* addends, int world_size, MatrixView out, CudaStream& stream) {
  CARAVAN_CHECK_EQ(out.row_stride, out.cols);
  const int64_t count = out.rows * out.cols;
  if (count == 0) return;
  const auto blocks = static_cast<unsigned int>(
      std::min<int64_t>((count + kThreads - 1) / kThreads, stream.device().num_multiprocessors));
  WithType(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    SumInRankOrderKernel<T><<<blocks, kThreads, 0, stream.handle()>>>(
        static_cast<const T*>(addends), world_size, static_cast<T*>(out.data), count);
  });
  CARAVAN_CUDA_CHECK(cudaGetLastError());
}

void LoadPeerNormKernels();  // peer_all_reduce_norm.cu

void LoadPeerKernels() {
  const auto load = [](auto* kernel) {
    cudaFuncAttributes attributes;
    CARAVAN_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  };
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    WithType(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      load(SumEverywhereKernel<T, 2>);
      load(SumEverywhereKernel<T, kMostPeers>);
      load(SumPartsKernel<T, kMostPeers>);
      load(SumInRankOrderKernel<T>);
    });
  }
  load(GatherColumnsKernel<uint16_t>);
  load(GatherColumnsKernel<uint32_t>);
  LoadPeerNormKernels();
}

}  // namespace caravan::cuda
