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

}  // namespace caravan::cuda
