// Kernels that start before their predecessor on the stream has ended (programmatic dependent
// launch, sm_90; elsewhere an ordinary launch). A kernel that is launched with LaunchDependent
//   - calls ReleaseSuccessor() once, as early as it likes: the next kernel may then start, as far
//     as the multiprocessors have room;
//   - calls WaitForPredecessor() in every block, before it reads anything that an earlier kernel
//     wrote and before it writes anything at all. What no kernel writes (weights) it may read
//     earlier.
// Since every kernel waits, the end of one implies the end of all before it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/device/cuda_check.h"
#include "kernels/device/cuda_stream.h"

namespace caravan::cuda {

__device__ inline void WaitForPredecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void ReleaseSuccessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// For a kernel whose last block goes on with the work of all: counts the calling thread's block in
// `arrived`, a zero in global memory (of CudaStream::arrivals), and returns whether it is the last
// of `blocks`. What this thread did before, or the others of its block before a barrier, is then
// seen by the last block's calling thread, and by its others behind a barrier. Leaves a zero.
__device__ inline bool ArrivesLast(uint32_t* arrived, int blocks) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(__cvta_generic_to_global(arrived))
               : "memory");
  const bool last = before + 1 == static_cast<uint32_t>(blocks);
  if (last) *arrived = 0;
  return last;
}

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  size_t shared_bytes = 0;  // dynamic; above 48 KiB the kernel's attribute must allow it
  int cluster = 1;          // blocks of a cluster, along the grid's x; above 1 on sm_90 only
};

template <typename... Parameters, typename... Arguments>
void LaunchDependent(void (*kernel)(Parameters...), const LaunchShape& shape,
                     const CudaStream& stream, Arguments... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle();
  config.attrs = attributes;
  if (stream.device().compute_capability >= 90) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attributes[config.numAttrs].val.clusterDim.y = 1;
    attributes[config.numAttrs++].val.clusterDim.z = 1;
  }
  CARAVAN_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

}  // namespace caravan::cuda
