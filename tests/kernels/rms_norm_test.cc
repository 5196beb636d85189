#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

class RmsNormTest : public testing::TestWithParam<std::tuple<Target, DType>> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(target_); }

  void Norm(const Tensor& x, const Tensor& weight, Tensor& out) const {
    TargetRun run(target_);
    RmsNorm(run.In(x), run.In(weight.vector()), kEpsilon, run.Out(out), run.stream());
    run.Finish();
  }
  void AddNorm(const Tensor& delta, const Tensor& weight, Tensor& residual, Tensor& out) const {
    TargetRun run(target_);
    AddRmsNorm(run.In(delta), run.In(weight.vector()), kEpsilon, run.Out(residual), run.Out(out),
               run.stream());
    run.Finish();
  }

  static constexpr float kEpsilon = 1e-5f;
  const Target target_ = std::get<0>(GetParam());
  const DType dtype_ = std::get<1>(GetParam());
};

std::vector<double> MeanSquares(const Tensor& x) {
  std::vector<double> means;
  for (int64_t t = 0; t < x.rows(); ++t) {
    double squares = 0;
    for (double value : x.Row(t)) squares += value * value;
    means.push_back(squares / static_cast<double>(x.cols()));
  }
  return means;
}

// One element of a norm in float64. The mean of squares is within (n / 8 + 8) · u of its value, the
// root halves that, and five roundings follow: division, root, reciprocal and two products.
Expected ReferenceNorm(double x, double mean_square, double weight, int64_t n, DType out) {
  const double value = x / std::sqrt(mean_square + double{1e-5f}) * weight;
  const double relative =
      (std::ceil(static_cast<double>(n) / 16) + 8) * UnitRoundoff(DType::kFloat32);
  return {value, std::fabs(value) * (relative + 1.01 * UnitRoundoff(out)) + SmallestStep(out)};
}

TEST_P(RmsNormTest, AgreesWithFloat64) {
  for (int64_t hidden : {1, 31, 32, 33, 128, 4096, 8200, 20000}) {
    for (DType out_dtype : {dtype_, DType::kFloat32}) {
      for (const int64_t padding : {3, 8}) {
        SCOPED_TRACE(hidden);
        const Tensor x = Tensor::Random(dtype_, 5, hidden, 1, padding);
        const Tensor weight = Tensor::Random(dtype_, 1, hidden, 2);
        Tensor out(out_dtype, 5, hidden, padding);
        Norm(x, weight, out);
        const std::vector<double> means = MeanSquares(x);
        EXPECT_TRUE(IsClose(out, [&](int64_t t, int64_t c) {
          return ReferenceNorm(x.at(t, c), means[t], weight.at(0, c), hidden, out_dtype);
        }));
      }
    }
  }
}

TEST_P(RmsNormTest, MayWriteOverItsInput) {
  for (int64_t hidden : {100, 128}) {
    Tensor x = Tensor::Random(dtype_, 3, hidden, 1, 8);
    const Tensor weight = Tensor::Random(DType::kFloat32, 1, hidden, 2);
    Tensor out(dtype_, 3, hidden);
    Norm(x, weight, out);
    TargetRun run(target_);
    const MatrixView view = run.Out(x);
    RmsNorm(view, run.In(weight.vector()), kEpsilon, view, run.stream());
    run.Finish();
    for (int64_t t = 0; t < 3; ++t) EXPECT_EQ(x.Bits(t), out.Bits(t));
  }
}

TEST_P(RmsNormTest, TakesNoRows) {
  Tensor x(dtype_, 0, 64);
  Tensor residual(dtype_, 0, 64);
  Tensor out(dtype_, 0, 64);
  const Tensor weight = Tensor::Random(dtype_, 1, 64, 2);
  Norm(x, weight, out);
  AddNorm(x, weight, residual, out);
}

TEST_P(RmsNormTest, AddsRoundsAndNormsTheRoundedSum) {
  for (DType delta_dtype : kAllDTypes) {
    for (int64_t hidden : {1, 31, 33, 128, 4096, 8200}) {
      const int64_t padding = hidden % 2 == 1 ? 5 : 8;
      const Tensor delta = Tensor::Random(delta_dtype, 4, hidden, 1, padding);
      const Tensor before = Tensor::Random(dtype_, 4, hidden, 2, padding);
      const Tensor weight = Tensor::Random(DType::kFloat32, 1, hidden, 3);
      Tensor residual = before;
      Tensor out(dtype_, 4, hidden, padding);
      AddNorm(delta, weight, residual, out);
      for (int64_t t = 0; t < 4; ++t) {  // exact: a float32 sum, rounded to the nearest
        for (int64_t c = 0; c < hidden; ++c) {
          Tensor rounded(dtype_, 1, 1);
          rounded.Set(0, 0, static_cast<float>(before.at(t, c) + delta.at(t, c)));
          ASSERT_EQ(residual.at(t, c), rounded.at(0, 0)) << t << ", " << c;
        }
      }
      EXPECT_TRUE(residual.GuardsAreIntact());
      const std::vector<double> means = MeanSquares(residual);
      EXPECT_TRUE(IsClose(out, [&](int64_t t, int64_t c) {
        return ReferenceNorm(residual.at(t, c), means[t], weight.at(0, c), hidden, dtype_);
      }));
    }
  }
}

TEST_P(RmsNormTest, WritesItsOutputOverDelta) {
  for (int64_t hidden : {70, 72}) {
    Tensor delta = Tensor::Random(dtype_, 2, hidden, 1);
    const Tensor weight = Tensor::Random(dtype_, 1, hidden, 3);
    Tensor residual[2] = {Tensor::Random(dtype_, 2, hidden, 2),
                          Tensor::Random(dtype_, 2, hidden, 2)};
    Tensor out(dtype_, 2, hidden);
    AddNorm(delta, weight, residual[0], out);
    TargetRun run(target_);
    const MatrixView view = run.Out(delta);
    AddRmsNorm(view, run.In(weight.vector()), kEpsilon, run.Out(residual[1]), view, run.stream());
    run.Finish();
    for (int64_t t = 0; t < 2; ++t) EXPECT_EQ(delta.Bits(t), out.Bits(t));
  }
}

TEST_P(RmsNormTest, RowsDoNotDependOnTheNumberOfRowsOrThreads) {
  Tensor x = Tensor::Random(dtype_, 64, 2080, 1);
  const Tensor weight = Tensor::Random(dtype_, 1, 2080, 2);
  Tensor all(dtype_, 64, 2080);
  Norm(x, weight, all);
  for (int64_t count : {1, 2, 3, 7}) {
    ScopedThreads threads(static_cast<int>(count));
    Tensor some(dtype_, count, 2080);
    TargetRun run(target_);
    const ConstMatrixView rows = run.In(x);
    RmsNorm({rows.row(11), rows.dtype, count, rows.cols, rows.row_stride}, run.In(weight.vector()),
            kEpsilon, run.Out(some), run.stream());
    run.Finish();
    for (int64_t t = 0; t < count; ++t) EXPECT_EQ(some.Bits(t), all.Bits(11 + t));
  }
}

INSTANTIATE_TEST_SUITE_P(All, RmsNormTest,
                         testing::Combine(testing::ValuesIn(AllTargets()),
                                          testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return NameOf(std::get<0>(info.param)) + "_" +
                                  NameOf(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace caravan
