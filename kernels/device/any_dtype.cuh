// Elements whose dtype is known at run time alone. The branch on the dtype is the same in a whole
// grid, so it costs next to nothing in kernels that wait for memory, and saves an instantiation for
// each combination of dtypes.
#pragma once

#include "kernels/device/elements.cuh"

namespace caravan::cuda {

__device__ inline float LoadElement(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[index];
  if (dtype == DType::kFloat16) return ToFloat(static_cast<const __half*>(data)[index]);
  return ToFloat(static_cast<const __nv_bfloat16*>(data)[index]);
}

__device__ inline void StoreElement(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[index] = value;
  } else if (dtype == DType::kFloat16) {
    static_cast<__half*>(data)[index] = FromFloat<__half>(value);
  } else {
    static_cast<__nv_bfloat16*>(data)[index] = FromFloat<__nv_bfloat16>(value);
  }
}

namespace internal {

template <typename T, int N>
__device__ void LoadPack(const void* data, int64_t index, float (&values)[N]) {
  constexpr int kWide = N < kVector<T> ? N : kVector<T>;
#pragma unroll
  for (int begin = 0; begin < N; begin += kWide) {
    const auto pack =
        *reinterpret_cast<const Pack<T, kWide>*>(static_cast<const T*>(data) + index + begin);
#pragma unroll
    for (int i = 0; i < kWide; ++i) values[begin + i] = ToFloat(pack.element[i]);
  }
}

template <typename T, int N>
__device__ void StorePack(void* data, int64_t index, const float (&values)[N]) {
  constexpr int kWide = N < kVector<T> ? N : kVector<T>;
#pragma unroll
  for (int begin = 0; begin < N; begin += kWide) {
    Pack<T, kWide> pack;
#pragma unroll
    for (int i = 0; i < kWide; ++i) pack.element[i] = FromFloat<T>(values[begin + i]);
    *reinterpret_cast<Pack<T, kWide>*>(static_cast<T*>(data) + index + begin) = pack;
  }
}

}  // namespace internal

// N neighbours from element `index` on by accesses of up to 16 bytes: N is a power of two up to 8,
// `index` a multiple of it, and `data` aligned to N elements (16 bytes suffice).
template <int N>
__device__ void LoadElements(const void* data, DType dtype, int64_t index, float (&values)[N]) {
  if (dtype == DType::kFloat32) return internal::LoadPack<float>(data, index, values);
  if (dtype == DType::kFloat16) return internal::LoadPack<__half>(data, index, values);
  internal::LoadPack<__nv_bfloat16>(data, index, values);
}

template <int N>
__device__ void StoreElements(void* data, DType dtype, int64_t index, const float (&values)[N]) {
  if (dtype == DType::kFloat32) return internal::StorePack<float>(data, index, values);
  if (dtype == DType::kFloat16) return internal::StorePack<__half>(data, index, values);
  internal::StorePack<__nv_bfloat16>(data, index, values);
}

}  // namespace caravan::cuda
