// How kernels of several GPUs exchange data: a rank stores into the regions of the others, who poll
// their own until no word of what they wait for is empty. The data is its own flag, word by word,
// so there are no fences and no barriers between GPUs.
//
// Why two regions are enough: a rank stores into region k % 2 in its launch k only, and its launch
// k - 1 ended only when every rank had begun its own launch k - 1, thus ended its launch k - 2,
// which emptied that region again.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/peer_memory.h"

namespace caravan::cuda {

constexpr unsigned int kEmptyWord = 0xffffffffU;
// What is sent in place of an empty word: two NaN of 16 bits, or one of 32, as that word is too.
constexpr unsigned int kNanWord = 0x7fff7fffU;
constexpr unsigned int kSpinsBetweenAbortChecks = 1024;  // some hundred µs
constexpr unsigned long long kNanosecondsBetweenLooks = 100'000;
constexpr unsigned long long kTurnUnits = 1 << 16;  // more than blocks of a launch

__device__ inline uint4 LoadVolatile(const uint4* from) {
  uint4 x;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(from)
               : "memory");
  return x;
}

__device__ inline void StoreVolatile(uint4* to, uint4 x) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x.x), "r"(x.y),
               "r"(x.z), "r"(x.w)
               : "memory");
}

__device__ inline unsigned int LoadVolatile(const unsigned int* from) {
  return *static_cast<const volatile unsigned int*>(from);
}

// What can be sent: no word of it is empty.
__device__ inline uint4 Sendable(uint4 x) {
  const auto word = [](unsigned int w) { return w == kEmptyWord ? kNanWord : w; };
  return {word(x.x), word(x.y), word(x.z), word(x.w)};
}

__device__ inline bool IsWhole(uint4 x) {
  return x.x != kEmptyWord && x.y != kEmptyWord && x.z != kEmptyWord && x.w != kEmptyWord;
}

// Lets the next kernel start while this one waits for peers. All blocks run by then.
__device__ inline void ReleaseSuccessor(const PeerView& peers) {
  if (!peers.shares_gpu) ReleaseSuccessor();
}

// Kernels whose first parameter is `peers`.
template <typename... Parameters, typename... Arguments>
void LaunchPeer(void (*kernel)(PeerView, Parameters...), const LaunchShape& shape,
                const CudaStream& stream, const PeerView& peers, Arguments... arguments) {
  if (!peers.shares_gpu) return LaunchDependent(kernel, shape, stream, peers, arguments...);
  kernel<<<shape.grid, shape.threads, 0, stream.handle()>>>(peers, arguments...);
  CARAVAN_CUDA_CHECK(cudaGetLastError());
}

// One launch's use of the regions.
struct Turn {
  int64_t region;  // offset in bytes of the region of this turn
  bool aborted;    // the group was given up: leave at once
};

// Called once by all threads of every block, after WaitForPredecessor. Each launch adds kTurnUnits
// to the counter in all, so that a block reads from what was there which launch it belongs to, and
// graphs can be replayed.
__device__ inline Turn BeginTurn(const PeerView& peers) {
  __shared__ Turn turn;
  if (threadIdx.x == 0) {
    const unsigned long long units = blockIdx.x == 0 ? kTurnUnits - (gridDim.x - 1) : 1;
    const unsigned int aborted = LoadVolatile(&peers.counters->aborted);
    const unsigned long long before = atomicAdd(&peers.counters->arrivals, units);
    turn = {(before / kTurnUnits) % 2 == 0 ? 0 : peers.region_bytes, aborted != 0};
  }
  __syncthreads();
  return turn;
}

// The packs of `owner`'s region of this turn.
__device__ inline uint4* RegionOf(const PeerView& peers, const Turn& turn, int owner) {
  return reinterpret_cast<uint4*>(peers.regions[owner] + turn.region);
}

__device__ inline unsigned long long GpuNanoseconds() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
  return now;
}

// Whether this thread shall read the abort word: one of all that wait, every
// kNanosecondsBetweenLooks. Host memory answers about one read a µs, so if each of a launch's
// thousands of warps read it, the launch would take milliseconds, its peer would wait that long and
// read it too, and so on for all launches of a step.
__device__ inline bool IsTurnToLook(PeerCounters* counters) {
  const unsigned int lane = threadIdx.x % 32;
  if (lane + 1 != static_cast<unsigned int>(__ffs(static_cast<int>(__activemask())))) return false;
  const unsigned long long now = GpuNanoseconds();
  const unsigned long long due = *static_cast<volatile unsigned long long*>(&counters->next_look);
  return now >= due && atomicCAS(&counters->next_look, due, now + kNanosecondsBetweenLooks) == due;
}

// Whether to stop waiting. The first to notice tells all that wait and all later launches of this
// rank.
__device__ inline bool IsGivenUp(const PeerView& peers, unsigned int& spins) {
  if (++spins % kSpinsBetweenAbortChecks != 0) return false;
  if (LoadVolatile(&peers.counters->aborted) != 0) return true;
  if (!IsTurnToLook(peers.counters) || LoadVolatile(peers.abort_word) == 0) return false;
  *static_cast<volatile unsigned int*>(&peers.counters->aborted) = 1;
  return true;
}

// Waits for the pack at `slot`, takes it and leaves the slot empty. False where given up.
__device__ inline bool Receive(const PeerView& peers, uint4* slot, uint4& pack) {
  for (unsigned int spins = 0;;) {
    pack = LoadVolatile(slot);
    if (IsWhole(pack)) break;
    if (IsGivenUp(peers, spins)) return false;
  }
  StoreVolatile(slot, {kEmptyWord, kEmptyWord, kEmptyWord, kEmptyWord});
  return true;
}

// The same for the pack of every other rank r, at slots + r · stride, all loads in flight at once;
// packs[rank] stays. kRanks ≥ world_size.
template <int kRanks>
__device__ bool ReceiveFromAll(const PeerView& peers, uint4* slots, int64_t stride,
                               uint4 (&packs)[kRanks]) {
  for (unsigned int spins = 0;;) {
    bool whole = true;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r < peers.world_size && r != peers.rank) packs[r] = LoadVolatile(slots + r * stride);
    }
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r < peers.world_size && r != peers.rank) whole = whole && IsWhole(packs[r]);
    }
    if (whole) break;
    if (IsGivenUp(peers, spins)) return false;
  }
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    if (r < peers.world_size && r != peers.rank) {
      StoreVolatile(slots + r * stride, {kEmptyWord, kEmptyWord, kEmptyWord, kEmptyWord});
    }
  }
  return true;
}

// sum = packs[0] + packs[1] + … in float32 in the order of the ranks: the same bits everywhere.
template <typename T, int kRanks>
__device__ void SumInOrder(const PeerView& peers, const uint4 (&packs)[kRanks],
                           float (&sum)[kVector<T>]) {
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    if (r >= peers.world_size) break;
    const auto addends = *reinterpret_cast<const Pack<T, kVector<T>>*>(&packs[r]);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      const float addend = ToFloat(addends.element[i]);
      sum[i] = r == 0 ? addend : sum[i] + addend;
    }
  }
}

// The same, rounded once to T.
template <typename T, int kRanks>
__device__ uint4 SumPack(const PeerView& peers, const uint4 (&packs)[kRanks]) {
  float sum[kVector<T>];
  SumInOrder<T, kRanks>(peers, packs, sum);
  Pack<T, kVector<T>> rounded;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) rounded.element[i] = FromFloat<T>(sum[i]);
  return *reinterpret_cast<const uint4*>(&rounded);
}

// Elements [i · kVector, …) of x, which ends at `count`: zeros beyond it.
template <typename T>
__device__ uint4 LoadPack(const T* x, int64_t i, int64_t count, bool aligned) {
  const int64_t first = i * kVector<T>;
  if (aligned && first + kVector<T> <= count) return *reinterpret_cast<const uint4*>(x + first);
  Pack<T, kVector<T>> pack;
#pragma unroll
  for (int k = 0; k < kVector<T>; ++k) {
    pack.element[k] = first + k < count ? x[first + k] : T(0.0f);
  }
  return *reinterpret_cast<const uint4*>(&pack);
}

template <typename T>
__device__ void StorePack(T* x, int64_t i, int64_t count, bool aligned, uint4 value) {
  const int64_t first = i * kVector<T>;
  if (aligned && first + kVector<T> <= count) {
    *reinterpret_cast<uint4*>(x + first) = value;
    return;
  }
  const auto pack = *reinterpret_cast<const Pack<T, kVector<T>>*>(&value);
#pragma unroll
  for (int k = 0; k < kVector<T>; ++k) {
    if (first + k < count) x[first + k] = pack.element[k];
  }
}

// Calls body(step, rank) for step 1, 2, … and the rank so many after this one: not all ranks store
// into one at a time.
template <int kRanks, typename Body>
__device__ void ForEachPeer(const PeerView& peers, const Body& body) {
#pragma unroll
  for (int step = 1; step < kRanks; ++step) {
    if (step >= peers.world_size) break;
    const int rank = peers.rank + step;
    body(step, rank < peers.world_size ? rank : rank - peers.world_size);
  }
}

// Pushes a pack to the same place in the region of every other rank.
template <int kRanks>
__device__ void PushToAll(const PeerView& peers, const Turn& turn, int64_t place, uint4 pack) {
  ForEachPeer<kRanks>(peers,
                      [&](int, int to) { StoreVolatile(RegionOf(peers, turn, to) + place, pack); });
}

// Calls body(std::integral_constant<int, n>()) for the least n of ranks that kernels are built for
// and that is at least world_size.
template <typename Body>
void WithRanks(int world_size, const Body& body) {
  if (world_size <= 2) return body(std::integral_constant<int, 2>());
  if (world_size <= 4) return body(std::integral_constant<int, 4>());
  return body(std::integral_constant<int, kMostPeers>());
}

}  // namespace caravan::cuda
