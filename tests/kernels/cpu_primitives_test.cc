#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels/cpu/primitives.h"
#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

class CpuPrimitivesTest : public testing::TestWithParam<CpuIsa> {
 protected:
  ScopedIsa isa_{GetParam()};
  const cpu::Primitives& primitives_ = cpu::ActivePrimitives();
};

TEST_P(CpuPrimitivesTest, ReadEvery16BitFloat) {
  for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> codes(65536);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint16_t>(i);
    std::vector<float> values(codes.size());
    primitives_.to_float[static_cast<int>(dtype)](codes.data(), values.data(), 65536);
    Tensor reference(dtype, 1, 65536);
    std::memcpy(reference.view().data, codes.data(), codes.size() * 2);
    for (int64_t i = 0; i < 65536; ++i) {
      const double expected = reference.at(0, i);
      const float value = values[static_cast<size_t>(i)];
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value)) << i;
      } else {
        ASSERT_EQ(static_cast<double>(value), expected) << i;
        ASSERT_EQ(std::signbit(value), std::signbit(expected)) << i;
      }
    }
  }
}

// Every 16-bit float, the middles between neighbours, and one float32 step to either side.
TEST_P(CpuPrimitivesTest, RoundToNearestEvenAndKeepNan) {
  for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const int index = static_cast<int>(dtype);
    std::vector<float> inputs = {NAN,           -NAN,           INFINITY, -INFINITY,
                                 3.4028235e38f, -3.4028235e38f, 1e-45f,   65504,
                                 65519.996f,    65520,          65536,    1e6f};
    for (uint32_t code = 0; code < 65535; ++code) {
      const uint16_t codes[2] = {static_cast<uint16_t>(code), static_cast<uint16_t>(code + 1)};
      float values[2];
      primitives_.to_float[index](codes, values, 2);
      const float middle = values[0] / 2 + values[1] / 2;
      if (!std::isfinite(middle)) continue;
      inputs.insert(inputs.end(), {values[0], middle, std::nextafter(middle, INFINITY),
                                   std::nextafter(middle, -INFINITY)});
    }
    const int64_t n = static_cast<int64_t>(inputs.size());
    Tensor expected(dtype, 1, n);
    Tensor actual(dtype, 1, n);
    for (int64_t i = 0; i < n; ++i) expected.Set(0, i, inputs[static_cast<size_t>(i)]);
    primitives_.from_float[index](inputs.data(), actual.view().data, n);
    for (int64_t i = 0; i < n; ++i) {
      if (std::isnan(inputs[static_cast<size_t>(i)])) {
        ASSERT_TRUE(std::isnan(actual.at(0, i)));
      } else {
        ASSERT_EQ(actual.at(0, i), expected.at(0, i))
            << NameOf(dtype) << " of " << inputs[static_cast<size_t>(i)];
      }
    }
  }
}

TEST_P(CpuPrimitivesTest, ExponentialIsWithinThreeUnitsAndExactAtZero) {
  std::vector<float> x = {0};
  for (int i = 0; i < 11800; ++i) x.push_back(static_cast<float>(i) * -0.00737f);
  std::vector<float> e(x.size());
  const double sum = primitives_.exp_sum(x.data(), 0, e.data(), static_cast<int64_t>(x.size()));
  EXPECT_EQ(e[0], 1.0f);
  double expected_sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(double{x[i]});
    expected_sum += expected;
    ASSERT_NEAR(e[i], expected, 3 * 0x1p-23 * expected) << x[i];
  }
  // Blocks of 1024 in 16 lanes: 64 additions each, besides the error of the exponentials.
  EXPECT_NEAR(sum, expected_sum, (64 + 8) * 0x1p-23 * expected_sum);
}

TEST_P(CpuPrimitivesTest, ExponentialOfVeryNegativeNumbersIsZeroAndOfNanIsNan) {
  const float x[] = {-87.4f, -1000, -INFINITY, NAN};
  float e[4];
  primitives_.exp_sum(x, 0, e, 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(e[i], 0.0f) << x[i];
  primitives_.exp_sum(x + 3, 0, e + 3, 1);
  EXPECT_TRUE(std::isnan(e[3]));
}

TEST_P(CpuPrimitivesTest, SanitizeReplacesWhatIsNotANumber) {
  for (int64_t n : {1, 5, 16, 37}) {
    std::vector<float> x(static_cast<size_t>(n), -3.0f);
    x[static_cast<size_t>(n / 2)] = -2;
    EXPECT_EQ(primitives_.sanitize_max(x.data(), n), -2.0f);
    x[0] = NAN;
    EXPECT_EQ(primitives_.sanitize_max(x.data(), n), n == 1 ? -INFINITY : -2.0f);
    EXPECT_EQ(x[0], -INFINITY);
    x.back() = INFINITY;
    EXPECT_EQ(primitives_.sanitize_max(x.data(), n), 3.402823466e38f);
    EXPECT_EQ(x.back(), 3.402823466e38f);
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, CpuPrimitivesTest, testing::ValuesIn(RunnableIsas()),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

// Everything that sums or approximates, over random rows of an odd length: the outputs' bytes.
std::string BitsOfAllPrimitives(CpuIsa isa) {
  const ScopedIsa scoped(isa);
  const cpu::Primitives& primitives = cpu::ActivePrimitives();
  constexpr int64_t kLength = 1077;
  const Tensor x = Tensor::Random(DType::kFloat32, 9, kLength, 1);
  const auto row = [&](int64_t r) { return static_cast<const float*>(x.view().row(r)); };
  std::vector<float> results(9 * kLength, 0.0f);
  float* out = results.data();
  for (DType dtype : kAllDTypes) {
    const Tensor w = Tensor::Random(dtype, 13, kLength, 2);
    const int index = static_cast<int>(dtype);
    primitives.dot[index]({row(0), kLength, 9, w.view().data, kLength, 13, kLength, out, 13});
    out += 9 * 13;
    primitives.weighted_sum[index](
        {row(0), kLength, 9, 13, w.view().data, kLength / 10, out, kLength / 10});
    out += 9 * (kLength / 10);
  }
  cpu::SoftmaxState state{0.25f, 2.0f};
  std::copy_n(row(0), 29, out);
  out[29] = primitives.softmax_tile(out, 29, 0.7f, &state);
  out[30] = state.max;
  out[31] = state.sum;
  out[32] = primitives.sum_of_squares(row(1), kLength);
  out[33] = static_cast<float>(primitives.exp_sum(row(2), 3, out + 40, kLength));
  primitives.silu_multiply(row(3), row(4), out + 40 + kLength, kLength);
  primitives.rotate(row(5), row(6), out + 40 + 2 * kLength, kLength - 1);
  EXPECT_LE(out + 40 + 3 * kLength, results.data() + results.size());
  return {reinterpret_cast<const char*>(results.data()), results.size() * sizeof(float)};
}

TEST(CpuPrimitives, GiveEqualBitsWithAvx2AndAvx512) {
  if (BestCpuIsa() != CpuIsa::kAvx512) GTEST_SKIP() << "this machine has no AVX-512";
  EXPECT_EQ(BitsOfAllPrimitives(CpuIsa::kAvx2), BitsOfAllPrimitives(CpuIsa::kAvx512));
}

TEST(CpuBackendDeathTest, RefusesAnInstructionSetThatItDoesNotKnow) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";  // so that the choice is not made yet
  EXPECT_DEATH(
      {
        setenv("CARAVAN_CPU_ISA", "sse9", 1);
        ActiveCpuIsa();
      },
      "CARAVAN_CPU_ISA=sse9: not one of portable, avx2, avx512");
}

TEST(CpuBackendDeathTest, TakesTheInstructionSetThatTheEnvironmentNames) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        setenv("CARAVAN_CPU_ISA", "portable", 1);
        std::exit(ActiveCpuIsa() == CpuIsa::kPortable ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace caravan
