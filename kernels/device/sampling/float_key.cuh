// Floats as unsigned integers of the same order, for the integer reductions of a warp and for
// ranks.
#pragma once

#include <cstdint>

namespace caravan::cuda {

// -0 has the key of 0. No float but -NaN has key 0.
__device__ inline uint32_t KeyOf(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ inline float FloatOf(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}
constexpr uint32_t kKeyOfImpossible = 0x007fffffu;  // of -infinity

// The greatest value of the warp; none is NaN.
__device__ inline float WarpMax(float value) {
  return FloatOf(__reduce_max_sync(0xffffffffu, KeyOf(value)));
}

// Greater values first, then lower ids: the greater rank key comes first.
__device__ inline uint64_t RankKey(uint32_t key, int32_t id) {
  return uint64_t{key} << 32 | ~static_cast<uint32_t>(id);
}

// The greatest logit and the lowest id that has it.
struct Best {
  float value;
  int32_t id;
};
constexpr Best kNoBest = {-INFINITY, INT32_MAX};

__device__ inline Best WarpBest(Best best) {
  const uint32_t key = KeyOf(best.value);
  const uint32_t greatest = __reduce_max_sync(0xffffffffu, key);
  return {FloatOf(greatest), __reduce_min_sync(0xffffffffu, key == greatest ? best.id : INT32_MAX)};
}

}  // namespace caravan::cuda
