#include "kernels/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

using SwiGluCase = std::tuple<Target, DType, DType>;  // of gate_up, of out
class SwiGluTest : public testing::TestWithParam<SwiGluCase> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(std::get<0>(GetParam())); }

  static void Run(const Tensor& gate_up, Tensor& out) {
    TargetRun run(std::get<0>(GetParam()));
    SwiGlu(run.In(gate_up), run.Out(out), run.stream());
    run.Finish();
  }
};

Expected ReferenceSwiGlu(double gate, double up, DType out) {
  return SwiGluOf({gate, 0}, {up, 0}, std::get<0>(SwiGluTest::GetParam()).device, out);
}

TEST_P(SwiGluTest, AgreesWithFloat64) {
  const auto [target, in, out_dtype] = GetParam();
  for (int64_t n : {0, 1, 31, 32, 33, 128, 11008}) {
    for (int64_t tokens : {0, 1, 5}) {
      SCOPED_TRACE(testing::Message() << tokens << " x " << n);
      Tensor gate_up = Tensor::Random(in, tokens, 2 * n, 1, 9);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < n; ++c) gate_up.Set(t, c, gate_up.at(t, c) * 6);
      }
      Tensor out(out_dtype, tokens, n, 4);
      Run(gate_up, out);
      EXPECT_TRUE(IsClose(out, [&, dtype = out_dtype](int64_t t, int64_t c) {
        return ReferenceSwiGlu(gate_up.at(t, c), gate_up.at(t, n + c), dtype);
      }));
    }
  }
}

TEST_P(SwiGluTest, SaturatesAndKeepsNan) {
  const auto [target, in, out_dtype] = GetParam();
  const double gates[] = {-1e4, -100, -88, -87, -20, -0.0, 0, 1e-6, 20, 88, 100, 1e4};
  const int64_t n = std::size(gates);
  Tensor gate_up = Tensor::Random(in, 1, 2 * n + 2, 1);
  for (int64_t c = 0; c < n; ++c) {
    gate_up.Set(0, c, gates[c]);
    gate_up.Set(0, n + 1 + c, 1.5);
  }
  gate_up.Set(0, n, NAN);
  Tensor out(out_dtype, 1, n + 1);
  Run(gate_up, out);
  EXPECT_TRUE(std::isnan(out.at(0, n)));
  for (int64_t c = 0; c < n; ++c) {
    const Expected e = ReferenceSwiGlu(gate_up.at(0, c), 1.5, out_dtype);
    EXPECT_NEAR(out.at(0, c), e.value, e.tolerance) << "gate " << gates[c];
  }
}

TEST_P(SwiGluTest, RowsDoNotDependOnTheNumberOfRowsOrThreads) {
  const auto [target, in, out_dtype] = GetParam();
  Tensor gate_up = Tensor::Random(in, 32, 2 * 1030, 1);
  Tensor all(out_dtype, 32, 1030);
  Run(gate_up, all);
  ScopedThreads threads(3);
  for (int64_t count : {1, 2, 7}) {
    Tensor some(out_dtype, count, 1030);
    TargetRun run(target);
    const ConstMatrixView rows = run.In(gate_up);
    SwiGlu({rows.row(9), rows.dtype, count, rows.cols, rows.row_stride}, run.Out(some),
           run.stream());
    run.Finish();
    for (int64_t t = 0; t < count; ++t) EXPECT_EQ(some.Bits(t), all.Bits(9 + t));
  }
}

INSTANTIATE_TEST_SUITE_P(All, SwiGluTest,
                         testing::Combine(testing::ValuesIn(AllTargets()),
                                          testing::ValuesIn(kAllDTypes),
                                          testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return std::string(NameOf(std::get<0>(info.param))) + "_" +
                                  NameOf(std::get<1>(info.param)) + "_" +
                                  NameOf(std::get<2>(info.param));
                         });

}  // namespace
}  // namespace caravan
