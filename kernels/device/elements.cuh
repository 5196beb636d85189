// Elements of any dtype as float32, in vectors of 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/check.h"
#include "kernels/view.h"

namespace caravan::cuda {

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls body(TypeTag<T>()) with the C++ type of a dtype: the one dispatch of an operator.
template <typename Body>
void WithType(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(TypeTag<float>());
    case DType::kFloat16:
      return body(TypeTag<__half>());
    case DType::kBFloat16:
      return body(TypeTag<__nv_bfloat16>());
  }
  CARAVAN_CHECK(false, "unknown dtype");
}

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__half x) { return __half2float(x); }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounded to the nearest, ties to even.
template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ inline __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// N elements that are loaded and stored by one instruction where N · sizeof(T) is 4, 8 or 16.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T element[N];
};

// Elements of one 16-byte access.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

inline bool IsAligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace caravan::cuda
