// The k greatest of the values that a block holds in registers, in order, without sorting them all.
#pragma once

#include <cstdint>

#include "kernels/device/sampling/block_reduce.cuh"

namespace caravan::cuda {

// Unsigned integers in the order of the floats; -0 as 0. No float but -NaN has key 0.
__device__ inline uint32_t KeyOf(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ inline float FloatOf(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}
constexpr uint32_t kKeyOfImpossible = 0x007fffffu;  // of -infinity

// Greater values first, then lower ids: the greater rank key comes first.
__device__ inline uint64_t RankKey(uint32_t key, int32_t id) {
  return uint64_t{key} << 32 | ~static_cast<uint32_t>(id);
}

// Calls emit(rank, value, id) from some thread for each of the k first of the block's values (by
// value, ties by lower id), rank from 0; values of -infinity are never among them. Returns how many
// there are, in every thread. id_of(i) is the id of values[i]. REQUIRES: 0 < k ≤ kThreads; `list`
// is shared memory for kListSize keys, at least 512. All threads call it.
//
// A thread's greatest value stands for it: the k-th of these bounds the k-th value from below, and
// only k threads' values can be beyond it. Few candidates are left, so that each finds its rank by
// counting those before it.
template <int kThreads, int kListSize, int kItems, typename IdOf, typename Emit>
__device__ int SelectTop(const float (&values)[kItems], const IdOf& id_of, int k, uint64_t* list,
                         const Emit& emit) {
  constexpr int kMostRanked = 512;
  static_assert(kListSize >= kMostRanked && kThreads <= kMostRanked * 2);
  __shared__ int num;
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) top = max(top, KeyOf(values[i]));
  uint32_t least = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if (__syncthreads_count(top >= (least | bit)) >= k) least |= bit;
  }
  const auto collect = [&](uint64_t first) {  // those from rank key `first` on
    if (threadIdx.x == 0) num = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const uint64_t key = RankKey(KeyOf(values[i]), id_of(i));
      if (key < first) continue;
      const int place = atomicAdd(&num, 1);
      if (place < kListSize) list[place] = key;
    }
    __syncthreads();
    return num;
  };
  const uint32_t least_possible = max(least, kKeyOfImpossible + 1);
  int n = collect(uint64_t{least_possible} << 32);
  if (n > kMostRanked) {  // many equal values: search the k-th rank key itself
    __syncthreads();
    uint64_t first = 0;
    for (uint64_t bit = uint64_t{1} << 63; bit != 0; bit >>= 1) {
      int count = 0;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        count += RankKey(KeyOf(values[i]), id_of(i)) >= (first | bit);
      }
      if (ReduceBlock<kThreads>(count, 0, Sum()) >= k) first |= bit;
    }
    n = collect(first);
  }
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
    const uint64_t key = list[i];
    int rank = 0;
    for (int j = 0; j < n; ++j) rank += list[j] > key;
    if (rank < k)
      emit(rank, FloatOf(static_cast<uint32_t>(key >> 32)),
           static_cast<int32_t>(~static_cast<uint32_t>(key)));
  }
  __syncthreads();
  return min(n, k);
}

}  // namespace caravan::cuda
