#include "worker/replica/reduce.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/status.h"

// One body, compiled for each level of the instruction set and chosen when the program is loaded.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CARAVAN_CPU_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CARAVAN_CPU_CLONES
#endif

namespace caravan {
namespace {

// Elements summed at a time: the accumulators stay in the first-level cache.
constexpr int64_t kBlock = 1024;

uint16_t RoundToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}

CARAVAN_CPU_CLONES
void SumFloat32(std::span<const void* const> sources, int64_t first, int64_t count, void* out) {
  float sum[kBlock];
  std::memcpy(sum, static_cast<const float*>(sources[0]) + first, sizeof(float) * count);
  for (size_t r = 1; r < sources.size(); ++r) {
    const float* x = static_cast<const float*>(sources[r]) + first;
    for (int64_t i = 0; i < count; ++i) sum[i] += x[i];
  }
  std::memcpy(static_cast<float*>(out) + first, sum, sizeof(float) * count);
}

CARAVAN_CPU_CLONES
void SumBFloat16(std::span<const void* const> sources, int64_t first, int64_t count, void* out) {
  float sum[kBlock];
  const auto* x = static_cast<const uint16_t*>(sources[0]) + first;
  for (int64_t i = 0; i < count; ++i) sum[i] = std::bit_cast<float>(uint32_t{x[i]} << 16);
  for (size_t r = 1; r < sources.size(); ++r) {
    x = static_cast<const uint16_t*>(sources[r]) + first;
    for (int64_t i = 0; i < count; ++i) sum[i] += std::bit_cast<float>(uint32_t{x[i]} << 16);
  }
  auto* y = static_cast<uint16_t*>(out) + first;
  for (int64_t i = 0; i < count; ++i) y[i] = RoundToBFloat16(sum[i]);
}

CARAVAN_CPU_CLONES
void SumFloat16(std::span<const void* const> sources, int64_t first, int64_t count, void* out) {
  float sum[kBlock];
  const auto* x = static_cast<const _Float16*>(sources[0]) + first;
  for (int64_t i = 0; i < count; ++i) sum[i] = static_cast<float>(x[i]);
  for (size_t r = 1; r < sources.size(); ++r) {
    x = static_cast<const _Float16*>(sources[r]) + first;
    for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<float>(x[i]);
  }
  auto* y = static_cast<_Float16*>(out) + first;
  for (int64_t i = 0; i < count; ++i) y[i] = static_cast<_Float16>(sum[i]);
}

}  // namespace

void SumInOrder(std::span<const void* const> sources, DType dtype, int64_t count, void* out) {
  CARAVAN_CHECK(!sources.empty());
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t size = std::min(kBlock, count - first);
    switch (dtype) {
      case DType::kFloat32:
        SumFloat32(sources, first, size, out);
        break;
      case DType::kBFloat16:
        SumBFloat16(sources, first, size, out);
        break;
      case DType::kFloat16:
        SumFloat16(sources, first, size, out);
        break;
    }
  }
}

}  // namespace caravan
