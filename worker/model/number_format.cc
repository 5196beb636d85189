#include "worker/model/number_format.h"

#include <bit>
#include <cstring>

namespace caravan {
namespace {

float FromBFloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t ToBFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffU + (bits >> 16 & 1)) >> 16);
}

float FromFloat16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = bits >> 10 & 0x1fU;
  const uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // zero or subnormal: exact
  return sign != 0 ? -magnitude : magnitude;
}

uint16_t ToFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return sign | 0x7e00U;
  if (magnitude >= 0x477ff000U) return sign | 0x7c00U;  // from 65520 on: rounds to infinity
  if (magnitude < 0x38800000U) {
    // Below 2^-14: adding 0.5 moves the last place of float32 to 2^-24, that of a subnormal.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000U));
  }
  const uint32_t rounded = magnitude + 0xfffU + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112U << 10)));
}

float Load(const void* in, DType from, int64_t i) {
  if (from == DType::kFloat32) return static_cast<const float*>(in)[i];
  const uint16_t bits = static_cast<const uint16_t*>(in)[i];
  return from == DType::kFloat16 ? FromFloat16(bits) : FromBFloat16(bits);
}

template <typename Store>
void ConvertAll(const void* in, DType from, int64_t count, Store store) {
  switch (from) {  // once, not an element
    case DType::kFloat32:
      for (int64_t i = 0; i < count; ++i) store(i, Load(in, DType::kFloat32, i));
      return;
    case DType::kFloat16:
      for (int64_t i = 0; i < count; ++i) store(i, Load(in, DType::kFloat16, i));
      return;
    case DType::kBFloat16:
      for (int64_t i = 0; i < count; ++i) store(i, Load(in, DType::kBFloat16, i));
      return;
  }
}

}  // namespace

void ConvertElements(const void* in, DType from, void* out, DType to, int64_t count) {
  if (from == to) {
    std::memcpy(out, in, static_cast<size_t>(count * SizeOf(to)));
  } else if (to == DType::kFloat32) {
    ConvertAll(in, from, count,
               [out](int64_t i, float value) { static_cast<float*>(out)[i] = value; });
  } else if (to == DType::kFloat16) {
    ConvertAll(in, from, count, [out](int64_t i, float value) {
      static_cast<uint16_t*>(out)[i] = ToFloat16(value);
    });
  } else {
    ConvertAll(in, from, count, [out](int64_t i, float value) {
      static_cast<uint16_t*>(out)[i] = ToBFloat16(value);
    });
  }
}

}  // namespace caravan
