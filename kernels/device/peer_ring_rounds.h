// How the lanes of the ring (kernels/device/peer_ring.cuh, which says why it is right) go through
// its rounds. Plain C++, so that a model of it is checked without a GPU:
// tests/kernels/peer_ring_test.cc.
#pragma once

namespace caravan::cuda {

// A slot is used again so many rounds later.
constexpr int kRingRounds = 12;
// In iteration i a lane sends addends for round i, answers those of round i - kRingLag with sums,
// and takes the sums of round i - 2 · kRingLag.
constexpr int kRingLag = 2;
// In any so many iterations there is a fence, from 1 + 2 · kRingLag on.
constexpr int kIterationsOfAFence = kRingRounds - 1 - 3 * kRingLag;
static_assert(kIterationsOfAFence > 0);

// Whether a lane's stores so far shall be performed before it sends in this iteration of a launch
// of `rounds`. The warps of a block take turns, so that some always send.
constexpr bool IsFenceDue(int iteration, int rounds, int warp) {
  const int since = iteration - (1 + 2 * kRingLag) - warp % kIterationsOfAFence;
  return iteration < rounds && since >= 0 && since % kIterationsOfAFence == 0;
}

}  // namespace caravan::cuda
