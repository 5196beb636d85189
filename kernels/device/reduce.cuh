// Sums over the threads of a warp and of a block, in one order.
#pragma once

namespace caravan::cuda {

// Of all 32 lanes, in each of them.
__device__ inline float WarpSum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, offset);
  }
  return value;
}

// Of all threads of the block, whole warps up to 1024, in each of them. Once a kernel only: the
// shared memory is not guarded against a second use.
__device__ inline float BlockSum(float value) {
  __shared__ float sums[32];
  const int lane = threadIdx.x % 32;
  value = WarpSum(value);
  if (lane == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  return WarpSum(lane < blockDim.x / 32 ? sums[lane] : 0.0f);
}

}  // namespace caravan::cuda
