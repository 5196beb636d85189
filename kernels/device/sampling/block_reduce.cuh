// Reductions of any small type over a block, in one order: results do not vary from run to run.
#pragma once

#include <cstdint>
#include <cstring>

namespace caravan::cuda {

// `value` of the lane whose number differs in the bits of `mask`.
template <typename T>
__device__ T ShuffleXor(const T& value, int mask) {
  static_assert(sizeof(T) % sizeof(uint32_t) == 0);
  constexpr int kWords = sizeof(T) / sizeof(uint32_t);
  uint32_t words[kWords];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __shfl_xor_sync(0xffffffffu, words[i], mask);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}

template <typename T, typename Op>
__device__ T ReduceWarp(T value, const Op& op) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = op(value, ShuffleXor(value, mask));
  return value;
}

// The result is in every thread. `op` is commutative, `identity` its neutral element. All threads
// of the block call it; it may be called again at once.
template <int kThreads, typename T, typename Op>
__device__ T ReduceBlock(T value, T identity, const Op& op) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && kWarps <= 32);
  __shared__ alignas(16) unsigned char memory[kWarps * sizeof(T)];
  T* parts = reinterpret_cast<T*>(memory);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  value = ReduceWarp(value, op);
  if (lane == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = ReduceWarp(lane < kWarps ? parts[lane] : identity, op);
  __syncthreads();
  return value;
}

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

}  // namespace caravan::cuda
