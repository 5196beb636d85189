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

// How many iterations of a launch ago a lane's first fence was. One is due, before the lane sends,
// where this is 0 or a multiple of kIterationsOfAFence. `turn` is that of the lane's warp, from 0
// to kIterationsOfAFence - 1: so some warps always send.
constexpr int IterationsSinceFirstFence(int iteration, int turn) {
  return iteration - (1 + 2 * kRingLag) - turn;
}

}  // namespace caravan::cuda
