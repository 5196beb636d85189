#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

struct MatmulCase {
  CpuIsa isa;
  DType activations;
  DType weights;
};

class MatmulTest : public testing::TestWithParam<MatmulCase> {
 protected:
  ScopedIsa isa_{GetParam().isa};
};

// Checks out = x · wᵀ + bias for one shape. A dot product of n terms, summed in any order, is
// within n · u · Σ|x||w| (Higham 2002, section 3.1); one rounding to the output's dtype follows.
void CheckMatmul(const MatmulCase& types, DType out_dtype, int64_t tokens, int64_t features,
                 int64_t k) {
  SCOPED_TRACE(testing::Message() << tokens << " x " << k << " to " << features << " as "
                                  << NameOf(out_dtype));
  const Tensor x = Tensor::Random(types.activations, tokens, k, 1, 5);
  const Tensor weight = Tensor::Random(types.weights, features, k, 2);
  const Tensor bias = Tensor::Random(types.weights, 1, features, 3);
  const bool with_bias = features % 2 == 1;
  Tensor out(out_dtype, tokens, features, 3);
  Matmul(x.view(), weight.weight(), with_bias ? bias.vector() : ConstVectorView(), out.view(),
         DeviceStream::Cpu());
  const double u = UnitRoundoff(DType::kFloat32);
  std::vector<std::vector<double>> weights;
  for (int64_t n = 0; n < features; ++n) weights.push_back(weight.Row(n));
  std::vector<double> row;
  int64_t row_index = -1;
  EXPECT_TRUE(IsClose(out, [&](int64_t t, int64_t n) {
    if (t != row_index) row = x.Row(row_index = t);
    double sum = with_bias ? bias.at(0, n) : 0;
    double norm = std::fabs(sum);
    for (int64_t i = 0; i < k; ++i) {
      const double term = row[i] * weights[n][i];
      sum += term;
      norm += std::fabs(term);
    }
    // Two roundings a term where multiply and add are not fused, 16 partial sums, a tree, a bias.
    const double terms = 2.0 * std::ceil(k / 16.0) + 5;
    return Expected{sum, terms * u * norm + UnitRoundoff(out_dtype) * std::fabs(sum) * 1.01 +
                             SmallestStep(out_dtype)};
  }));
}

TEST_P(MatmulTest, AgreesWithFloat64) {
  for (DType out : {GetParam().activations, DType::kFloat32}) {
    for (int64_t tokens : {1, 2, 7, 33}) {
      for (int64_t k : {1, 31, 32, 33, 128}) CheckMatmul(GetParam(), out, tokens, 35, k);
    }
    CheckMatmul(GetParam(), out, 3, 1, 31);
    CheckMatmul(GetParam(), out, 1, 128, 4096);
    CheckMatmul(GetParam(), out, 131, 66, 257);
    CheckMatmul(GetParam(), out, 600, 33, 40);
  }
}

TEST_P(MatmulTest, TakesNoRowsAndNoInputs) {
  CheckMatmul(GetParam(), DType::kFloat32, 0, 8, 16);
  const Tensor x(GetParam().activations, 2, 0);
  const Tensor weight(GetParam().weights, 3, 0);
  Tensor out(DType::kFloat32, 2, 3);
  Matmul(x.view(), weight.weight(), {}, out.view(), DeviceStream::Cpu());
  EXPECT_TRUE(IsClose(out, [](int64_t, int64_t) { return Expected{0, 0x1p-126}; }));
}

// Rows [first, first + count) of x by themselves give the bits that they have among all the rows.
TEST_P(MatmulTest, RowsDoNotDependOnTheNumberOfRows) {
  for (int64_t k : {33, 1024}) {
    const Tensor weight = Tensor::Random(GetParam().weights, 77, k, 5);
    Tensor x = Tensor::Random(GetParam().activations, 64, k, 6);
    Tensor all(GetParam().activations, 64, 77);
    Matmul(x.view(), weight.weight(), {}, all.view(), DeviceStream::Cpu());
    for (int64_t count : {1, 2, 3, 7, 13}) {
      for (int64_t first : {0, 5, 51}) {
        for (int threads : {1, 3}) {
          ScopedThreads scoped(threads);
          Tensor some(GetParam().activations, count, 77);
          Matmul(x.view().Rows(first, count), weight.weight(), {}, some.view(),
                 DeviceStream::Cpu());
          for (int64_t r = 0; r < count; ++r) {
            ASSERT_EQ(some.Bits(r), all.Bits(first + r)) << "row " << first + r << " of " << count;
          }
        }
      }
    }
  }
}

std::vector<MatmulCase> AllCases() {
  std::vector<MatmulCase> cases;
  for (CpuIsa isa : RunnableIsas()) {
    for (DType activations : kAllDTypes) {
      for (DType weights : kAllDTypes) cases.push_back({isa, activations, weights});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Cpu, MatmulTest, testing::ValuesIn(AllCases()), [](const auto& info) {
  return std::string(NameOf(info.param.isa)) + "_" + NameOf(info.param.activations) + "_" +
         NameOf(info.param.weights);
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
