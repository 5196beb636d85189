#include "kernels/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

using SwiGluCase = std::tuple<CpuIsa, DType, DType>;  // of gate_up, of out
class SwiGluTest : public testing::TestWithParam<SwiGluCase> {
 protected:
  ScopedIsa isa_{std::get<0>(GetParam())};
};

// The exponential is within 4 u (polynomial and scaling, unfused), its argument is exact; one
// addition, one division, one product and the rounding to the output follow. Below -87 the
// exponential saturates at e^88, so that silu(z) is at most |z| · 1e-38 instead of 0.
Expected ReferenceSwiGlu(double gate, double up, DType out) {
  const double value = gate / (1 + std::exp(-gate)) * up;
  const double relative = 8 * UnitRoundoff(DType::kFloat32) + 1.01 * UnitRoundoff(out);
  return {value, std::fabs(value) * relative + SmallestStep(out) + std::fabs(gate * up) * 1e-38};
}

TEST_P(SwiGluTest, AgreesWithFloat64) {
  const auto [isa, in, out_dtype] = GetParam();
  for (int64_t n : {0, 1, 31, 32, 33, 128, 11008}) {
    for (int64_t tokens : {0, 1, 5}) {
      SCOPED_TRACE(testing::Message() << tokens << " x " << n);
      Tensor gate_up = Tensor::Random(in, tokens, 2 * n, 1, 9);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < n; ++c) gate_up.Set(t, c, gate_up.at(t, c) * 6);
      }
      Tensor out(out_dtype, tokens, n, 4);
      SwiGlu(gate_up.view(), out.view(), DeviceStream::Cpu());
      EXPECT_TRUE(IsClose(out, [&](int64_t t, int64_t c) {
        return ReferenceSwiGlu(gate_up.at(t, c), gate_up.at(t, n + c), out_dtype);
      }));
    }
  }
}

TEST_P(SwiGluTest, SaturatesAndKeepsNan) {
  const auto [isa, in, out_dtype] = GetParam();
  const double gates[] = {-1e4, -100, -88, -87, -20, -0.0, 0, 1e-6, 20, 88, 100, 1e4};
  const int64_t n = std::size(gates);
  Tensor gate_up = Tensor::Random(in, 1, 2 * n + 2, 1);
  for (int64_t c = 0; c < n; ++c) {
    gate_up.Set(0, c, gates[c]);
    gate_up.Set(0, n + 1 + c, 1.5);
  }
  gate_up.Set(0, n, NAN);
  Tensor out(out_dtype, 1, n + 1);
  SwiGlu(gate_up.view(), out.view(), DeviceStream::Cpu());
  EXPECT_TRUE(std::isnan(out.at(0, n)));
  for (int64_t c = 0; c < n; ++c) {
    const Expected e = ReferenceSwiGlu(gate_up.at(0, c), 1.5, out_dtype);
    EXPECT_NEAR(out.at(0, c), e.value, e.tolerance) << "gate " << gates[c];
  }
}

TEST_P(SwiGluTest, RowsDoNotDependOnTheNumberOfRowsOrThreads) {
  const auto [isa, in, out_dtype] = GetParam();
  Tensor gate_up = Tensor::Random(in, 32, 2 * 1030, 1);
  Tensor all(out_dtype, 32, 1030);
  SwiGlu(gate_up.view(), all.view(), DeviceStream::Cpu());
  ScopedThreads threads(3);
  for (int64_t count : {1, 2, 7}) {
    Tensor some(out_dtype, count, 1030);
    SwiGlu(gate_up.view().Rows(9, count), some.view(), DeviceStream::Cpu());
    for (int64_t t = 0; t < count; ++t) EXPECT_EQ(some.Bits(t), all.Bits(9 + t));
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, SwiGluTest,
                         testing::Combine(testing::ValuesIn(RunnableIsas()),
                                          testing::ValuesIn(kAllDTypes),
                                          testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return std::string(NameOf(std::get<0>(info.param))) + "_" +
                                  NameOf(std::get<1>(info.param)) + "_" +
                                  NameOf(std::get<2>(info.param));
                         });

}  // namespace
}  // namespace caravan
