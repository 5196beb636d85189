// Clusters of blocks (sm_90), which see each other's shared memory. On older architectures a
// cluster has one block.
#pragma once

#include <cstdint>

namespace caravan::cuda {

// A barrier for all threads of the cluster: what was written before it is seen after it.
__device__ inline void SynchronizeCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#else
  __syncthreads();
#endif
}

// The two halves of SynchronizeCluster, for other work in between.
__device__ inline void ArriveAtCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ inline void WaitForCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// What block `rank` of the cluster has where this block has `shared`.
__device__ inline float4 LoadFromCluster(const float4* shared, int rank) {
#if __CUDA_ARCH__ >= 900
  float4 v;
  asm volatile(
      "{\n.reg .u32 remote;\nmapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "r"(rank)
      : "memory");
  return v;
#else
  return *shared;
#endif
}

// Writes to block `rank` of the cluster where this block has `shared`; seen there after the next
// SynchronizeCluster.
__device__ inline void StoreToCluster(float4* shared, int rank, float4 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .u32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v4.f32 [remote], {%2, %3, %4, %5};\n}" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
#else
  *shared = v;
#endif
}

}  // namespace caravan::cuda
