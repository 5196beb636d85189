#include "tests/kernels/op_fixture.h"

#include <bit>
#include <cmath>

namespace caravan {
namespace {

// Reference conversions, over the definition of the formats rather than over bit tricks.
double Decode(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::nan("") : sign * INFINITY;
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

uint16_t Encode(double value, int exponent_bits, int mantissa_bits) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int greatest = ((1 << exponent_bits) - 1) << mantissa_bits;
  if (std::isnan(value)) return static_cast<uint16_t>(sign | greatest | 1 << (mantissa_bits - 1));
  if (value == 0) return sign;
  int exponent = 0;
  std::frexp(value, &exponent);  // |value| in [0.5, 1) · 2^exponent
  const int scale = std::max(exponent - 1, 1 - bias);
  const double steps = std::nearbyint(std::ldexp(std::fabs(value), mantissa_bits - scale));
  // The steps overflow into the exponent as they should: mantissa 2^m is the next power of two.
  const double code = steps + std::ldexp(scale + bias - 1, mantissa_bits);
  return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::min<double>(code, greatest)));
}

}  // namespace

double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x1p-24;
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
  }
  return 0;
}

double SmallestStep(DType dtype) { return dtype == DType::kFloat16 ? 0x1p-24 : 0x1p-126; }

std::vector<CpuIsa> RunnableIsas() {
  std::vector<CpuIsa> isas;
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa <= BestCpuIsa()) isas.push_back(isa);
  }
  return isas;
}

Tensor::Tensor(DType dtype, int64_t rows, int64_t cols, int64_t padding)
    : dtype_(dtype),
      rows_(rows),
      cols_(cols),
      stride_(cols + padding),
      bytes_(static_cast<size_t>(rows * stride_ * SizeOf(dtype)), 0xFF) {}

Tensor Tensor::Random(DType dtype, int64_t rows, int64_t cols, uint64_t seed, int64_t padding) {
  Tensor tensor(dtype, rows, cols, padding);
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) tensor.Set(r, c, normal(generator));
  }
  return tensor;
}

double Tensor::at(int64_t r, int64_t c) const {
  const size_t element = static_cast<size_t>(r * stride_ + c);
  if (dtype_ == DType::kFloat32) {
    float value;
    std::memcpy(&value, &bytes_[element * 4], 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, &bytes_[element * 2], 2);
  return dtype_ == DType::kFloat16 ? Decode(bits, 5, 10) : Decode(bits, 8, 7);
}

void Tensor::Set(int64_t r, int64_t c, double value) {
  const size_t element = static_cast<size_t>(r * stride_ + c);
  if (dtype_ == DType::kFloat32) {
    const float rounded = static_cast<float>(value);
    std::memcpy(&bytes_[element * 4], &rounded, 4);
    return;
  }
  const uint16_t bits = dtype_ == DType::kFloat16 ? Encode(value, 5, 10) : Encode(value, 8, 7);
  std::memcpy(&bytes_[element * 2], &bits, 2);
}

std::vector<double> Tensor::Row(int64_t r) const {
  std::vector<double> row(static_cast<size_t>(cols_));
  for (int64_t c = 0; c < cols_; ++c) row[static_cast<size_t>(c)] = at(r, c);
  return row;
}

WeightView Tensor::weight() const {
  EXPECT_EQ(stride_, cols_) << "weights have no padding";
  return {.dtype = dtype_, .data = bytes_.data(), .out_features = rows_, .in_features = cols_};
}

std::string Tensor::Bits(int64_t r) const {
  const char* row = static_cast<const char*>(view().row(r));
  return std::string(row, static_cast<size_t>(cols_ * SizeOf(dtype_)));
}

bool Tensor::GuardsAreIntact() const {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t b = (r * stride_ + cols_) * SizeOf(dtype_); b < (r + 1) * stride_ * SizeOf(dtype_);
         ++b) {
      if (bytes_[static_cast<size_t>(b)] != 0xFF) return false;
    }
  }
  return true;
}

testing::AssertionResult IsClose(const Tensor& actual,
                                 const std::function<Expected(int64_t, int64_t)>& expected) {
  double worst = 0;
  std::string description;
  for (int64_t r = 0; r < actual.rows(); ++r) {
    for (int64_t c = 0; c < actual.cols(); ++c) {
      const Expected e = expected(r, c);
      const double value = actual.at(r, c);
      double ratio = std::fabs(value - e.value) / e.tolerance;
      if (value == e.value) ratio = 0;
      if (std::isnan(ratio)) ratio = INFINITY;
      if (ratio <= worst) continue;
      worst = ratio;
      description = "element (" + std::to_string(r) + ", " + std::to_string(c) + ") is " +
                    std::to_string(value) + ", expected " + std::to_string(e.value) +
                    ", error / tolerance " + std::to_string(ratio);
    }
  }
  if (!actual.GuardsAreIntact()) {
    return testing::AssertionFailure() << "wrote beyond the end of a row";
  }
  if (worst > 1) return testing::AssertionFailure() << description;
  return testing::AssertionSuccess();
}

}  // namespace caravan
