#include <algorithm>

#include "kernels/device/cuda_check.h"
#include "kernels/device/peer.cuh"
#include "kernels/device/peer_ring.cuh"
#include "kernels/peer_all_reduce.h"

namespace caravan::cuda {
namespace {

constexpr int kThreads = 512;
// For each of PeerView::max_blocks; the packs of many ranks take the registers of two.
template <int kRanks>
constexpr int kBlocksAtOnce = kRanks <= 4 ? 2 : 1;

// The same for the ring.
constexpr int kLaneThreads = 128;
template <int kRanks>
constexpr int kLaneBlocksAtOnce = kRanks <= 4 ? 4 : 2;

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

// Rank r owns the r-th part of the packs. A lane takes one pack of each part a round: it sends the
// addends to their owners; sums what has come for its own part of an earlier round and sends that
// to all; and takes the others' sums of a still earlier one. So the links are busy from the first
// round to the last, and what a lane waits for has long been on its way. What lies beyond the last
// element is sent too, as zeros.
template <typename T, int kRanks>
__global__ void __launch_bounds__(kLaneThreads, kLaneBlocksAtOnce<kRanks>)
    SumPartsKernel(const __grid_constant__ PeerView peers, T* x, int64_t count, bool aligned,
                   int64_t lanes) {
  ReleaseSuccessor(peers);
  WaitForPredecessor();
  const int64_t packs = (count + kVector<T> - 1) / kVector<T>;
  const int64_t part = (packs + peers.world_size - 1) / peers.world_size;
  const int64_t width = min(lanes, int64_t{gridDim.x} * kLaneThreads);  // lanes in use
  const int64_t lane = int64_t{blockIdx.x} * kLaneThreads + threadIdx.x;
  const auto rounds = static_cast<int>((part + width - 1) / width);
  const auto has = [&](int round) {
    return round >= 0 && lane < width && round * width + lane < part;
  };
  const auto place = [&](int owner, int round) { return owner * part + round * width + lane; };
  uint4 addends[kRanks];  // of the next round, for the owner so many ranks after this one
  const auto read = [&](int round) {
    if (!has(round)) return;
    ForEachPeer<kRanks>(peers, [&](int step, int owner) {
      addends[step] = LoadPack(x, place(owner, round), count, aligned);
    });
  };
  read(0);
  const RingRounds ring = BeginRounds(peers, rounds);
  if (ring.aborted) return;
  const LaneSlots slots{peers, ring.first, lane, lanes};
  for (int round = 0; round < rounds + 2 * kRingLag; ++round) {
    if (round < rounds) FenceLane(round);
    if (has(round)) {
      ForEachPeer<kRanks>(peers, [&](int step, int owner) {
        StoreVolatile(slots.OfPeer(step, owner, round, LaneSlots::kAddends),
                      Sendable(addends[step]));
      });
    }
    read(round + 1);
    uint4 received[kRanks];
    if (const int summed = round - kRingLag; has(summed)) {
      received[0] = Sendable(LoadPack(x, place(peers.rank, summed), count, aligned));
      uint4* const from = slots.Own(summed, LaneSlots::kAddends);
      if (!ReceiveFromPeers<kRanks>(peers, from, lanes, received)) return;
      uint4 in_order[kRanks];
      PutInRankOrder(peers, received, in_order);
      const uint4 sum = Sendable(SumPack<T, kRanks>(peers, in_order));
      ForEachPeer<kRanks>(peers, [&](int step, int to) {
        StoreVolatile(slots.OfPeer(step, to, summed, LaneSlots::kSums), sum);
      });
      StorePack(x, place(peers.rank, summed), count, aligned, sum);
    }
    if (const int taken = round - 2 * kRingLag; has(taken)) {
      uint4* const from = slots.Own(taken, LaneSlots::kSums);
      if (!ReceiveFromPeers<kRanks>(peers, from, lanes, received)) return;
      ForEachPeer<kRanks>(peers, [&](int step, int owner) {
        StorePack(x, place(owner, taken), count, aligned, received[step]);
      });
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

template <typename T, int kRanks>
void LaunchSumEverywhere(const PeerView& peers, T* x, int64_t count, CudaStream& stream) {
  const int64_t step =
      peers.region_bytes / peers.world_size / 16 * 16 / static_cast<int64_t>(sizeof(T));
  for (int64_t first = 0; first < count; first += step) {
    const int64_t size = std::min(step, count - first);
    const int64_t packs = (size + kVector<T> - 1) / kVector<T>;
    LaunchPeer(SumEverywhereKernel<T, kRanks>,
               {BlocksFor(peers, packs, kBlocksAtOnce<kRanks>), kThreads}, stream, peers, x + first,
               size, IsAligned16(x + first));
  }
}

template <typename T, int kRanks>
void LaunchSumParts(const PeerView& peers, T* x, int64_t count, CudaStream& stream) {
  // The same for all launches: a lane's slots are its own.
  const int64_t lanes =
      std::min(int64_t{peers.max_blocks} * kLaneBlocksAtOnce<kRanks> * kLaneThreads,
               MostLanes(peers.ring_bytes, peers.world_size));
  CARAVAN_CHECK(lanes > 0, "a ring of ", peers.ring_bytes, " bytes");
  const int64_t packs = count / kVector<T> / peers.world_size + 1;  // of a part, or one more
  const auto blocks =
      static_cast<unsigned int>((std::min(lanes, packs) + kLaneThreads - 1) / kLaneThreads);
  LaunchPeer(SumPartsKernel<T, kRanks>, {blocks, kLaneThreads}, stream, peers, x, count,
             IsAligned16(x), lanes);
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
    const int64_t count = x.rows * x.cols;
    const bool parts = count * SizeOf(x.dtype) > MostBytesSummedEverywhere(peers.world_size);
    WithRanks(peers.world_size, [&](auto ranks) {
      constexpr int kRanks = ranks();
      if constexpr (kRanks > 2) {
        if (parts) return LaunchSumParts<T, kRanks>(peers, static_cast<T*>(x.data), count, stream);
      }
      LaunchSumEverywhere<T, kRanks>(peers, static_cast<T*>(x.data), count, stream);
    });
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
      load(SumEverywhereKernel<T, 4>);
      load(SumEverywhereKernel<T, kMostPeers>);
      load(SumPartsKernel<T, 4>);
      load(SumPartsKernel<T, kMostPeers>);
      load(SumInRankOrderKernel<T>);
    });
  }
  load(GatherColumnsKernel<uint16_t>);
  load(GatherColumnsKernel<uint32_t>);
  LoadPeerNormKernels();
}

}  // namespace caravan::cuda
