// A ring of rounds in every rank's memory through which kernels move any amount of data in one
// launch, with few fences and no barrier between GPUs.
//
// A lane is the thread of one number on all ranks. It has slots of its own in each round of the
// ring; the rounds go on over all launches. In iteration i of its loop it sends addends for round
// i, answers those of round i - kRingLag with sums, and takes the sums of round i - 2 · kRingLag.
//
// Why a slot is empty when it is used again, kRingRounds rounds later. A lane that sends for round
// c has received what its peers sent in their iteration c - 1 - kRingLag, before which they had
// emptied all up to round c - 2 - 3 · kRingLag. That the empty words were written before the peer
// sent needs a fence between; of these there is one in any kIterationsOfAFence iterations from
// 1 + 2 · kRingLag on, so it holds up to round c - kRingRounds. Sums have more room: who sends one
// has received an addend for c itself. (The sender needs no fence: it stores after a branch on what
// it has loaded.)
//
// The end of a launch is a fence too. Of the launch before, of R rounds, a lane that took part had
// at least R - 1 (none at all only where R = 1 or the launch had fewer lanes: then the rule for
// launches further back holds). While it has received nothing in the new one, in its iterations j ≤
// kRingLag, it uses slots of that launch only if R + j ≥ kRingRounds; and then there was a fence in
// the iterations R + j + 1 + 2 · kRingLag - kRingRounds to R - 1, which are at least
// kIterationsOfAFence and begin at 1 + 2 · kRingLag or later. Of launches further back the rule of
// the regions holds (peer.cuh).
#pragma once

#include <cstdint>

#include "kernels/device/peer.cuh"
#include "kernels/device/peer_ring_rounds.h"

namespace caravan::cuda {

// For how many lanes a ring has slots: an addend and a sum from each other rank in every round.
constexpr int64_t MostLanes(int64_t ring_bytes, int world_size) {
  return ring_bytes / 16 / (int64_t{kRingRounds} * 2 * (world_size - 1));
}

// One launch's use of the ring.
struct RingRounds {
  int first;     // of kRingRounds: where its rounds begin
  bool aborted;  // the group was given up: leave at once
};

// Called once by all threads of every block, after WaitForPredecessor. The last block to come adds
// what the launch's rounds are worth, so that all read the same.
__device__ inline RingRounds BeginRounds(const PeerView& peers, int rounds) {
  __shared__ RingRounds begun;
  if (threadIdx.x == 0) {
    const unsigned int aborted = LoadVolatile(&peers.counters->aborted);
    const unsigned long long before = atomicAdd(&peers.counters->ring_arrivals, 1ULL);
    if (before % kTurnUnits == gridDim.x - 1) {
      atomicAdd(&peers.counters->ring_arrivals, rounds * kTurnUnits - gridDim.x);
    }
    begun = {static_cast<int>(before / kTurnUnits % kRingRounds), aborted != 0};
  }
  __syncthreads();
  return begun;
}

// A lane's slots in the rings of all ranks. Those for one round lie `lanes` apart, first that of
// the rank after the ring's owner.
struct LaneSlots {
  enum Kind : uint8_t { kAddends, kSums };

  const PeerView& peers;
  int first;  // of RingRounds
  int64_t lane;
  int64_t lanes;

  // In this rank's ring, in a round of this launch: that of the next rank.
  __device__ uint4* Own(int round, Kind kind) const { return Of(peers.rank, round, kind); }

  // In the ring of the step-th rank after this one: this rank's.
  __device__ uint4* OfPeer(int step, int rank, int round, Kind kind) const {
    return Of(rank, round, kind) + (peers.world_size - step - 1) * lanes;
  }

 private:
  __device__ uint4* Of(int owner, int round, Kind kind) const {
    const int64_t before = ((first + round) % kRingRounds * 2 + kind) * (peers.world_size - 1);
    std::byte* const ring = peers.regions[owner] + 2 * peers.region_bytes;
    return reinterpret_cast<uint4*>(ring) + before * lanes + lane;
  }
};

// As ReceiveFromAll, of a lane's slots: packs[step] is that of the step-th rank after this one,
// packs[0] stays. Not by ranks, which compiles to slower code: 64 MiB then take 3 % longer.
template <int kRanks>
__device__ bool ReceiveFromPeers(const PeerView& peers, uint4* slots, int64_t lanes,
                                 uint4 (&packs)[kRanks]) {
  for (unsigned int spins = 0;;) {
    bool whole = true;
#pragma unroll
    for (int step = 1; step < kRanks; ++step) {
      if (step < peers.world_size) packs[step] = LoadVolatile(slots + (step - 1) * lanes);
    }
#pragma unroll
    for (int step = 1; step < kRanks; ++step) {
      if (step < peers.world_size) whole = whole && IsWhole(packs[step]);
    }
    if (whole) break;
    if (IsGivenUp(peers, spins)) return false;
  }
#pragma unroll
  for (int step = 1; step < kRanks; ++step) {
    if (step >= peers.world_size) break;
    StoreVolatile(slots + (step - 1) * lanes, {kEmptyWord, kEmptyWord, kEmptyWord, kEmptyWord});
  }
  return true;
}

// in_order[r] = the pack of rank r of by_step, which begins with this rank's.
template <int kRanks>
__device__ void PutInRankOrder(const PeerView& peers, const uint4 (&by_step)[kRanks],
                               uint4 (&in_order)[kRanks]) {
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    in_order[r] = by_step[0];
    ForEachPeer<kRanks>(peers, [&](int step, int rank) {
      if (rank == r) in_order[r] = by_step[step];
    });
  }
}

// Before a lane sends in an iteration.
__device__ inline void FenceLane(int iteration) {
  const auto turn = static_cast<int>(threadIdx.x / 32 % kIterationsOfAFence);
  const int since = IterationsSinceFirstFence(iteration, turn);
  if (since >= 0 && since % kIterationsOfAFence == 0) __threadfence_system();
}

}  // namespace caravan::cuda
