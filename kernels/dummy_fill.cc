#include "kernels/dummy_fill.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"
#include "kernels/philox.h"

namespace caravan {
namespace cuda {  // dummy_fill.cu
void FillDummy(const DummySource& source, const std::vector<float>& quantiles, MatrixView out,
               CudaStream& stream);
}  // namespace cuda
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
    x -= error / (std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi));
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

}  // namespace
namespace cpu {
namespace {

// Elements [first, first + out.cols) to row `row` of out.
void FillRow(uint64_t key, int64_t first, MatrixView out, int64_t row) {
  const float* quantiles = Quantiles().data();
  const auto from_float = ActivePrimitives().from_float[IndexOf(out.dtype)];
  auto* target = static_cast<std::byte*>(out.row(row));
  std::array<float, 512> values;
  for (int64_t done = 0; done < out.cols;) {
    // Up to the next whole draw at least, so that draws start at their own first element.
    const int64_t index = first + done;
    const int64_t skip = index % kElementsPerDraw;
    const int64_t n =
        std::min<int64_t>(out.cols - done, static_cast<int64_t>(values.size()) - skip);
    for (int64_t i = 0; i < skip + n; i += kElementsPerDraw) {
      const auto draw = static_cast<uint64_t>((index - skip + i) / kElementsPerDraw);
      const PhiloxWords words =
          Philox4x32(key, {{static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32), 0, 0}});
      for (size_t w = 0; w < 4; ++w) {
        values[static_cast<size_t>(i) + 2 * w] = quantiles[words.word[w] & 0xffff];
        values[static_cast<size_t>(i) + 2 * w + 1] = quantiles[words.word[w] >> 16];
      }
    }
    from_float(values.data() + skip, target + done * SizeOf(out.dtype), n);
    done += n;
  }
}

void FillDummy(const DummySource& source, const std::vector<float>&, MatrixView out) {
  for (int64_t r = 0; r < out.rows; ++r) {
    FillRow(source.key, source.first + r * source.stride, out, r);
  }
}

}  // namespace
}  // namespace cpu

void FillDummy(const DummySource& source, MatrixView out, DeviceStream stream) {
  CARAVAN_CHECK(source.first >= 0 && source.stride >= 0, source.first, ", ", source.stride);
  if (out.empty()) return;
  CARAVAN_DISPATCH(FillDummy, stream, source, Quantiles(), out);
}

}  // namespace caravan
