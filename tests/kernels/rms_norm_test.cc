#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

struct NormCase {
  CpuIsa isa;
  DType dtype;
};
class RmsNormTest : public testing::TestWithParam<NormCase> {
 protected:
  ScopedIsa isa_{GetParam().isa};
};

constexpr float kEpsilon = 1e-5f;

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
  const double value = x / std::sqrt(mean_square + double{kEpsilon}) * weight;
  const double relative =
      (std::ceil(static_cast<double>(n) / 16) + 8) * UnitRoundoff(DType::kFloat32);
  return {value, std::fabs(value) * (relative + 1.01 * UnitRoundoff(out)) + SmallestStep(out)};
}

TEST_P(RmsNormTest, AgreesWithFloat64) {
  const DType dtype = GetParam().dtype;
  for (int64_t hidden : {1, 31, 32, 33, 128, 4096}) {
    for (DType out_dtype : {dtype, DType::kFloat32}) {
      SCOPED_TRACE(hidden);
      const Tensor x = Tensor::Random(dtype, 5, hidden, 1, 3);
      const Tensor weight = Tensor::Random(dtype, 1, hidden, 2);
      Tensor out(out_dtype, 5, hidden, 2);
      RmsNorm(x.view(), weight.vector(), kEpsilon, out.view(), DeviceStream::Cpu());
      const std::vector<double> means = MeanSquares(x);
      EXPECT_TRUE(IsClose(out, [&](int64_t t, int64_t c) {
        return ReferenceNorm(x.at(t, c), means[t], weight.at(0, c), hidden, out_dtype);
      }));
    }
  }
}

TEST_P(RmsNormTest, MayWriteOverItsInput) {
  Tensor x = Tensor::Random(GetParam().dtype, 3, 100, 1, 3);
  const Tensor weight = Tensor::Random(DType::kFloat32, 1, 100, 2);
  Tensor out(GetParam().dtype, 3, 100);
  RmsNorm(x.view(), weight.vector(), kEpsilon, out.view(), DeviceStream::Cpu());
  RmsNorm(x.view(), weight.vector(), kEpsilon, x.view(), DeviceStream::Cpu());
  for (int64_t t = 0; t < 3; ++t) EXPECT_EQ(x.Bits(t), out.Bits(t));
}

TEST_P(RmsNormTest, TakesNoRows) {
  Tensor x(GetParam().dtype, 0, 64);
  const Tensor weight = Tensor::Random(GetParam().dtype, 1, 64, 2);
  RmsNorm(x.view(), weight.vector(), kEpsilon, x.view(), DeviceStream::Cpu());
  AddRmsNorm(x.view(), weight.vector(), kEpsilon, x.view(), Tensor(x).view(), DeviceStream::Cpu());
}

TEST_P(RmsNormTest, AddsRoundsAndNormsTheRoundedSum) {
  const DType dtype = GetParam().dtype;
  for (DType delta_dtype : kAllDTypes) {
    for (int64_t hidden : {1, 31, 33, 4096}) {
      const Tensor delta = Tensor::Random(delta_dtype, 4, hidden, 1, 1);
      const Tensor before = Tensor::Random(dtype, 4, hidden, 2, 5);
      const Tensor weight = Tensor::Random(DType::kFloat32, 1, hidden, 3);
      Tensor residual = before;
      Tensor out(dtype, 4, hidden, 2);
      AddRmsNorm(delta.view(), weight.vector(), kEpsilon, residual.view(), out.view(),
                 DeviceStream::Cpu());
      for (int64_t t = 0; t < 4; ++t) {  // exact: a float32 sum, rounded to the nearest
        for (int64_t c = 0; c < hidden; ++c) {
          Tensor rounded(dtype, 1, 1);
          rounded.Set(0, 0, static_cast<float>(before.at(t, c) + delta.at(t, c)));
          ASSERT_EQ(residual.at(t, c), rounded.at(0, 0)) << t << ", " << c;
        }
      }
      EXPECT_TRUE(residual.GuardsAreIntact());
      const std::vector<double> means = MeanSquares(residual);
      EXPECT_TRUE(IsClose(out, [&](int64_t t, int64_t c) {
        return ReferenceNorm(residual.at(t, c), means[t], weight.at(0, c), hidden, dtype);
      }));
    }
  }
}

TEST_P(RmsNormTest, WritesItsOutputOverDelta) {
  const DType dtype = GetParam().dtype;
  Tensor delta = Tensor::Random(dtype, 2, 70, 1);
  const Tensor weight = Tensor::Random(dtype, 1, 70, 3);
  Tensor residual[2] = {Tensor::Random(dtype, 2, 70, 2), Tensor::Random(dtype, 2, 70, 2)};
  Tensor out(dtype, 2, 70);
  AddRmsNorm(delta.view(), weight.vector(), kEpsilon, residual[0].view(), out.view(),
             DeviceStream::Cpu());
  AddRmsNorm(delta.view(), weight.vector(), kEpsilon, residual[1].view(), delta.view(),
             DeviceStream::Cpu());
  for (int64_t t = 0; t < 2; ++t) EXPECT_EQ(delta.Bits(t), out.Bits(t));
}

TEST_P(RmsNormTest, RowsDoNotDependOnTheNumberOfRowsOrThreads) {
  Tensor x = Tensor::Random(GetParam().dtype, 64, 2080, 1);
  const Tensor weight = Tensor::Random(GetParam().dtype, 1, 2080, 2);
  Tensor all(GetParam().dtype, 64, 2080);
  RmsNorm(x.view(), weight.vector(), kEpsilon, all.view(), DeviceStream::Cpu());
  for (int64_t count : {1, 2, 3, 7}) {
    ScopedThreads threads(static_cast<int>(count));
    Tensor some(GetParam().dtype, count, 2080);
    RmsNorm(x.view().Rows(11, count), weight.vector(), kEpsilon, some.view(), DeviceStream::Cpu());
    for (int64_t t = 0; t < count; ++t) EXPECT_EQ(some.Bits(t), all.Bits(11 + t));
  }
}

std::vector<NormCase> AllCases() {
  std::vector<NormCase> cases;
  for (CpuIsa isa : RunnableIsas()) {
    for (DType dtype : kAllDTypes) cases.push_back({isa, dtype});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Cpu, RmsNormTest, testing::ValuesIn(AllCases()), [](const auto& info) {
  return std::string(NameOf(info.param.isa)) + "_" + NameOf(info.param.dtype);
});

}  // namespace
}  // namespace caravan
