#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

using MatmulCase = std::tuple<Target, DType, DType>;  // of activations, of weights

class MatmulTest : public testing::TestWithParam<MatmulCase> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(target_); }

  const Target target_ = std::get<0>(GetParam());
  const DType activations_ = std::get<1>(GetParam());
  const DType weights_ = std::get<2>(GetParam());
};

// An error of c · u · Σ|x||w| is allowed. A sum of n terms in any order is within c = n (Higham
// 2002, section 3.1): on the CPU two roundings a term where multiply and add are not fused, in 16
// partial sums, a tree, a bias. The GPU's orders have up to n terms in a row, so there the
// probabilistic bound is taken, c = λ · √n, which fails with probability 2n · e^(-λ²/2), 1e-10 at λ
// = 8 (Higham and Mary 2019); tensor cores truncate, which doubles u but adds 16 terms at a time.
double ErrorFactor(const Target& target, int64_t k) {
  if (target.device == Device::kCpu) return 2.0 * std::ceil(static_cast<double>(k) / 16) + 5;
  return 8.0 * std::sqrt(static_cast<double>(k)) + 8;
}

// Σ x[i] · w[i] + bias in float64, with what may be missing from it.
Expected ReferenceDot(const std::vector<double>& x, const std::vector<double>& w, double bias,
                      double error_factor, DType out) {
  double sum = bias;
  double norm = std::fabs(bias);
  for (size_t i = 0; i < x.size(); ++i) {
    const double term = x[i] * w[i];
    sum += term;
    norm += std::fabs(term);
  }
  return {sum, error_factor * UnitRoundoff(DType::kFloat32) * norm +
                   UnitRoundoff(out) * std::fabs(sum) * 1.01 + SmallestStep(out)};
}

struct Shape {
  int64_t tokens;
  int64_t features;
  int64_t k;
};

// Checks out = x · wᵀ + bias, with a bias and with odd rows where `features` is odd.
void CheckMatmul(const MatmulCase& types, DType out_dtype, const Shape& shape) {
  const auto& [target, activations, weights] = types;
  const auto [tokens, features, k] = shape;
  const double error_factor = ErrorFactor(target, k);
  SCOPED_TRACE(testing::Message() << tokens << " x " << k << " to " << features << " as "
                                  << NameOf(out_dtype));
  const bool odd = features % 2 == 1;
  const Tensor x = Tensor::Random(activations, tokens, k, 1, odd ? 5 : 8);
  const Tensor weight = Tensor::Random(weights, features, k, 2);
  const Tensor bias = Tensor::Random(weights, 1, features, 3);
  Tensor out(out_dtype, tokens, features, odd ? 3 : 4);
  TargetRun run(target);
  Matmul(run.In(x), run.In(weight.weight()), odd ? run.In(bias.vector()) : ConstVectorView(),
         run.Out(out), run.stream());
  run.Finish();
  std::vector<std::vector<double>> rows_of_weight;
  for (int64_t n = 0; n < features; ++n) rows_of_weight.push_back(weight.Row(n));
  std::vector<double> row;
  int64_t row_index = -1;
  EXPECT_TRUE(IsClose(out, [&](int64_t t, int64_t n) {
    if (t != row_index) row = x.Row(row_index = t);
    return ReferenceDot(row, rows_of_weight[n], odd ? bias.at(0, n) : 0, error_factor, out_dtype);
  }));
}

TEST_P(MatmulTest, AgreesWithFloat64) {
  for (DType out : {activations_, DType::kFloat32}) {
    for (int64_t tokens : {1, 2, 7, 33}) {
      for (int64_t k : {1, 31, 32, 33, 128}) CheckMatmul(GetParam(), out, {tokens, 35, k});
    }
    for (int64_t tokens : {1, 2, 3, 8, 9, 16, 17, 31, 64, 128, 300}) {
      CheckMatmul(GetParam(), out, {tokens, 72, 200});
    }
    CheckMatmul(GetParam(), out, {3, 1, 31});
    CheckMatmul(GetParam(), out, {1, 128, 4096});
    CheckMatmul(GetParam(), out, {131, 66, 257});
    CheckMatmul(GetParam(), out, {600, 33, 40});
  }
}

// With a bias and with odd rows where `intermediate` is odd.
TEST_P(MatmulTest, GatedAgreesWithFloat64) {
  for (const auto& [tokens, intermediate, k] : {Shape{0, 8, 16},
                                                {1, 16, 64},
                                                {2, 35, 33},
                                                {7, 72, 200},
                                                {33, 131, 40},
                                                {64, 24, 1000},
                                                {300, 40, 72}}) {
    SCOPED_TRACE(testing::Message() << tokens << " x " << k << " to " << intermediate);
    const bool odd = intermediate % 2 == 1;
    const Tensor x = Tensor::Random(activations_, tokens, k, 1, odd ? 5 : 8);
    const Tensor weight = Tensor::Random(weights_, 2 * intermediate, k, 2);
    const Tensor bias = Tensor::Random(weights_, 1, 2 * intermediate, 3);
    Tensor gate_up(activations_, tokens, 2 * intermediate);
    Tensor out(activations_, tokens, intermediate, odd ? 3 : 4);
    TargetRun run(target_);
    MatmulSwiGlu({.x = run.In(x),
                  .weight = run.In(weight.weight()),
                  .bias = odd ? run.In(bias.vector()) : ConstVectorView(),
                  .gate_up = run.Out(gate_up),
                  .out = run.Out(out)},
                 run.stream());
    run.Finish();
    EXPECT_TRUE(IsClose(out, [&, k = k, intermediate = intermediate](int64_t t, int64_t n) {
      const auto dot = [&](int64_t row) {
        return ReferenceDot(x.Row(t), weight.Row(row), odd ? bias.at(0, row) : 0,
                            ErrorFactor(target_, k), activations_);
      };
      return SwiGluOf(dot(n), dot(intermediate + n), target_.device, activations_);
    }));
  }
}

TEST_P(MatmulTest, TakesNoRowsAndNoInputs) {
  CheckMatmul(GetParam(), DType::kFloat32, {0, 8, 16});
  const Tensor x(activations_, 2, 0);
  const Tensor weight(weights_, 3, 0);
  Tensor out(DType::kFloat32, 2, 3);
  TargetRun run(target_);
  Matmul(run.In(x), run.In(weight.weight()), {}, run.Out(out), run.stream());
  run.Finish();
  EXPECT_TRUE(IsClose(out, [](int64_t, int64_t) { return Expected{0, 0x1p-126}; }));
}

// Rows [first, first + count) of x by themselves give the bits that they have among all the rows.
TEST_P(MatmulTest, RowsDoNotDependOnTheNumberOfRows) {
  const bool on_cpu = target_.device == Device::kCpu;
  if (!on_cpu && !target_.batch_invariant) GTEST_SKIP() << "is not promised";
  const int64_t rows = on_cpu ? 64 : 300;
  for (int64_t k : {33, 1024}) {
    const Tensor weight = Tensor::Random(weights_, 77, k, 5);
    const Tensor x = Tensor::Random(activations_, rows, k, 6);
    Tensor all(activations_, rows, 77);
    TargetRun run(target_);
    const ConstMatrixView input = run.In(x);
    const WeightView on_target = run.In(weight.weight());
    Matmul(input, on_target, {}, run.Out(all), run.stream());
    run.Finish();
    for (int64_t count : {1, 2, 3, 7, 9, 13, 16, 40, 150}) {
      for (int64_t first : {0, 5, 51}) {
        if (first + count > rows) continue;
        for (int threads : {1, 3}) {
          ScopedThreads scoped(threads);
          Tensor some(activations_, count, 77);
          TargetRun again(target_);
          Matmul({input.row(first), input.dtype, count, k, input.row_stride}, on_target, {},
                 again.Out(some), again.stream());
          again.Finish();
          for (int64_t r = 0; r < count; ++r) {
            ASSERT_EQ(some.Bits(r), all.Bits(first + r)) << "row " << first + r << " of " << count;
          }
          if (!on_cpu) break;
        }
      }
    }
  }
}

TEST_P(MatmulTest, GivesEqualBitsEachTime) {
  const Tensor weight = Tensor::Random(weights_, 80, 1024, 5);
  for (int64_t tokens : {1, 8, 40, 200}) {
    const Tensor x = Tensor::Random(activations_, tokens, 1024, 6);
    Tensor out[2] = {Tensor(DType::kFloat32, tokens, 80), Tensor(DType::kFloat32, tokens, 80)};
    for (Tensor& one : out) {
      TargetRun run(target_);
      if (&one == &out[0]) {  // with a prepared choice, and without
        PrepareMatmul({tokens, activations_, DType::kFloat32}, weight.weight(), run.stream());
      }
      Matmul(run.In(x), run.In(weight.weight()), {}, run.Out(one), run.stream());
      run.Finish();
    }
    for (int64_t t = 0; t < tokens; ++t) EXPECT_EQ(out[0].Bits(t), out[1].Bits(t));
  }
}

INSTANTIATE_TEST_SUITE_P(All, MatmulTest,
                         testing::Combine(testing::ValuesIn(AllTargets()),
                                          testing::ValuesIn(kAllDTypes),
                                          testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return NameOf(std::get<0>(info.param)) + "_" +
                                  NameOf(std::get<1>(info.param)) + "_" +
                                  NameOf(std::get<2>(info.param));
                         });

TEST(Matmul, GivesEqualBitsWithAvx2AndAvx512) {
  if (BestCpuIsa() != CpuIsa::kAvx512) GTEST_SKIP() << "this machine has no AVX-512";
  const Tensor x = Tensor::Random(DType::kBFloat16, 9, 1000, 1);
  const Tensor weight = Tensor::Random(DType::kBFloat16, 50, 1000, 2);
  Tensor out[2] = {Tensor(DType::kFloat32, 9, 50), Tensor(DType::kFloat32, 9, 50)};
  for (int i = 0; i < 2; ++i) {
    ScopedIsa isa(i == 0 ? CpuIsa::kAvx2 : CpuIsa::kAvx512);
    Matmul(x.view(), weight.weight(), {}, out[i].view(), DeviceStream::Cpu());
  }
  for (int64_t r = 0; r < 9; ++r) EXPECT_EQ(out[0].Bits(r), out[1].Bits(r));
}

}  // namespace
}  // namespace caravan
