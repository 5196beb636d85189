// Reductions of any small type over a block, in one order: results do not vary from run to run.
#pragma once

#include <cstdint>
#include <cstring>

namespace caravan::cuda {

namespace internal {

// value's words after shuffle(word).
template <typename T, typename Shuffle>
__device__ T ShuffleWords(const T& value, const Shuffle& shuffle) {
  static_assert(sizeof(T) % sizeof(uint32_t) == 0);
  constexpr int kWords = sizeof(T) / sizeof(uint32_t);
  uint32_t words[kWords];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (uint32_t& word : words) word = shuffle(word);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}

}  // namespace internal

// `value` of the lane whose number differs in the bits of `mask`.
template <typename T>
__device__ T ShuffleXor(const T& value, int mask) {
  return internal::ShuffleWords(
      value, [&](uint32_t word) { return __shfl_xor_sync(0xffffffffu, word, mask); });
}

// `value` of one lane.
template <typename T>
__device__ T FromLane(const T& value, int lane) {
  return internal::ShuffleWords(
      value, [&](uint32_t word) { return __shfl_sync(0xffffffffu, word, lane); });
}

// `op` is commutative. The result is in every lane.
template <typename T, typename Op>
__device__ T ReduceWarp(T value, const Op& op) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = op(value, ShuffleXor(value, mask));
  return value;
}

// The result is in every thread. reduce_warp(value) reduces a warp, `identity` is neutral to it.
// All threads of the block call it; it may be called again at once.
template <int kThreads, typename T, typename Reduce>
__device__ T ReduceWarps(T value, T identity, const Reduce& reduce_warp) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && kWarps <= 32);
  __shared__ alignas(16) unsigned char memory[kWarps * sizeof(T)];
  T* parts = reinterpret_cast<T*>(memory);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  value = reduce_warp(value);
  if (lane == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = reduce_warp(lane < kWarps ? parts[lane] : identity);
  __syncthreads();
  return value;
}

template <int kThreads, typename T, typename Op>
__device__ T ReduceBlock(T value, T identity, const Op& op) {
  return ReduceWarps<kThreads>(value, identity, [&](T part) { return ReduceWarp(part, op); });
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
