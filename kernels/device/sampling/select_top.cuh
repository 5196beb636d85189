// The k greatest of the values that a block holds, in order, without sorting them all.
#pragma once

#include <cstdint>

#include "kernels/device/sampling/block_reduce.cuh"
#include "kernels/device/sampling/float_key.cuh"

namespace caravan::cuda {

constexpr int kMostRanked = 512;

// Of the k first of the block's values (by value, ties by lower id) the last one. REQUIRES: there
// are k values above -infinity. Bit by bit, so that any values will do.
template <int kThreads, typename ValueOf, typename IdOf>
__device__ void FindLast(int items, const ValueOf& value_of, const IdOf& id_of, int k,
                         float* last_value, int32_t* last_id) {
  uint32_t key = 0;
#pragma unroll 1
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    int count = 0;
#pragma unroll
    for (int i = 0; i < items; ++i) count += KeyOf(value_of(i)) >= (key | bit);
    if (ReduceBlock<kThreads>(count, 0, Sum()) >= k) key |= bit;
  }
  *last_value = FloatOf(key);
  int before = 0;
#pragma unroll
  for (int i = 0; i < items; ++i) before += value_of(i) > *last_value;
  before = ReduceBlock<kThreads>(before, 0, Sum());
  int32_t id = 0;  // the greatest below which too few are
#pragma unroll 1
  for (int32_t bit = 0x40000000; bit != 0; bit >>= 1) {
    int count = 0;
#pragma unroll
    for (int i = 0; i < items; ++i) {
      count += value_of(i) == *last_value && id_of(i) < (id | bit);
    }
    if (before + ReduceBlock<kThreads>(count, 0, Sum()) < k) id |= bit;
  }
  *last_id = id;
}

// Calls emit(rank, value, id) from some thread for each of the k first of the block's values (by
// value, ties by lower id), rank from 0; values of -infinity are never among them. Returns how many
// there are, in every thread. Each thread holds `items`: value_of(i) with id_of(i). REQUIRES: 0 < k
// ≤ kThreads; `list` is shared memory for kMostRanked keys. All threads call it.
//
// A thread's greatest value stands for it: the k-th of these bounds the k-th value from below, and
// only k threads' values can be beyond it; some more will do. Few candidates are left, so that each
// finds its rank by counting those before it.
template <int kThreads, typename ValueOf, typename IdOf, typename Emit>
__device__ int SelectTop(int items, const ValueOf& value_of, const IdOf& id_of, int k,
                         uint64_t* list, const Emit& emit) {
  static_assert(kThreads <= kMostRanked * 2);
  __shared__ int num;
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < items; ++i) top = max(top, KeyOf(value_of(i)));
  uint32_t least = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const int count = __syncthreads_count(top >= (least | bit));
    if (count < k) continue;
    least |= bit;
    if (count <= k + k / 2 + 8) break;  // lower bits would save little work
  }
  float least_value = FloatOf(max(least, kKeyOfImpossible + 1));
  int32_t last_id = INT32_MAX;  // of those that have the least value
  const auto collect = [&] {
    if (threadIdx.x == 0) num = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < items; ++i) {
      if (value_of(i) < least_value || (value_of(i) == least_value && id_of(i) > last_id)) continue;
      const int place = atomicAdd(&num, 1);
      if (place < kMostRanked) list[place] = RankKey(KeyOf(value_of(i)), id_of(i));
    }
    __syncthreads();
    return num;
  };
  int n = collect();
  if (n > kMostRanked) {  // many equal values
    __syncthreads();
    FindLast<kThreads>(items, value_of, id_of, k, &least_value, &last_id);
    n = collect();
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
