#include "worker/model/dummy_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "worker/model/number_format.h"

namespace caravan {
namespace {

constexpr double kDeviation = 0.02;
constexpr int64_t kElementsPerDraw = 8;  // four 32-bit words, 16 bits an element

// Quantile of the standard normal distribution: Newton's method on erfc, from a start that is
// close enough for it to converge everywhere in (0, 1/2].
double LowerQuantile(double p) {
  const double t = std::sqrt(-2 * std::log(p));
  double x = -(t - (2.515517 + 0.802853 * t + 0.010328 * t * t) /
                       (1 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t));
  for (int i = 0; i < 4; ++i) {
    const double error = 0.5 * std::erfc(-x / std::sqrt(2.0)) - p;
    x -= error / (std::exp(-x * x / 2) / std::sqrt(2 * M_PI));
  }
  return x;
}

// kDeviation times the quantiles at (k + 1/2) / 65536.
const std::vector<float>& Quantiles() {
  static const auto* table = [] {
    auto* values = new std::vector<float>(65536);
    for (size_t k = 0; k < 32768; ++k) {
      const double x = kDeviation * LowerQuantile((static_cast<double>(k) + 0.5) / 65536);
      (*values)[k] = static_cast<float>(x);
      (*values)[65535 - k] = static_cast<float>(-x);
    }
    return values;
  }();
  return *table;
}

std::array<uint32_t, 4> Philox(uint64_t key, uint64_t counter) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                               0, 0};
  auto key0 = static_cast<uint32_t>(key);
  auto key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return c;
}

}  // namespace

uint64_t DummyKey(std::string_view tensor_name) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const unsigned char c : tensor_name) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

void FillDummy(uint64_t key, int64_t first, DType dtype, int64_t count, void* target) {
  const float* quantiles = Quantiles().data();
  auto* out = static_cast<std::byte*>(target);
  std::array<float, 512> values;
  for (int64_t done = 0; done < count;) {
    // Up to the next whole draw at least, so that draws start at their own first element.
    const int64_t index = first + done;
    const int64_t skip = index % kElementsPerDraw;
    const int64_t n = std::min<int64_t>(count - done, static_cast<int64_t>(values.size()) - skip);
    for (int64_t i = 0; i < skip + n; i += kElementsPerDraw) {
      const auto words = Philox(key, static_cast<uint64_t>((index - skip + i) / kElementsPerDraw));
      for (size_t w = 0; w < 4; ++w) {
        values[static_cast<size_t>(i) + 2 * w] = quantiles[words[w] & 0xffff];
        values[static_cast<size_t>(i) + 2 * w + 1] = quantiles[words[w] >> 16];
      }
    }
    ConvertElements(values.data() + skip, DType::kFloat32, out + done * SizeOf(dtype), dtype, n);
    done += n;
  }
}

void FillOnes(DType dtype, int64_t count, void* target) {
  const float one = 1;
  for (int64_t i = 0; i < count; ++i) {
    ConvertElements(&one, DType::kFloat32, static_cast<std::byte*>(target) + i * SizeOf(dtype),
                    dtype, 1);
  }
}

}  // namespace caravan
