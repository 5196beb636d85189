// Copies by Hopper's tensor memory accelerator: one thread asks for a box of a matrix, and a
// barrier in shared memory (warpgroup.cuh) ends its phase once the bytes are there.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace caravan::cuda {

// Makes barriers that this thread has initialized known to the accelerator.
__device__ inline void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

// Arrives, and keeps the phase open until `bytes` more have been copied.
__device__ inline void ArriveExpecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// What is read once should leave the L2 cache first, what others read again last.
__device__ inline uint64_t EvictFirst() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ inline uint64_t EvictLast() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Copies the box whose first element is (row, column) to `shared`, for `barrier` to count.
__device__ inline void CopyBox(uint32_t shared, const CUtensorMap& map, int row, int column,
                               uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}

// The same of a map of halves: the box from `row` of each half on, a multiple of eight.
__device__ inline void CopyHalvesBox(uint32_t shared, const CUtensorMap& map, int row, int column,
                                     uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, 0, 0, %3}], [%4], %5;" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row / 8), "r"(barrier), "l"(policy)
      : "memory");
}

// Brings the box into the L2 cache alone.
__device__ inline void PrefetchBox(const CUtensorMap& map, int row, int column) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map),
               "r"(column), "r"(row)
               : "memory");
}

__device__ inline void PrefetchHalvesBox(const CUtensorMap& map, int row, int column) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1, 0, 0, %2}];" ::"l"(&map),
               "r"(column), "r"(row / 8)
               : "memory");
}

__device__ inline void PrefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

}  // namespace caravan::cuda
