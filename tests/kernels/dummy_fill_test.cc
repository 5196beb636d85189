#include "kernels/dummy_fill.h"

#include <gtest/gtest.h>

#include <tuple>

#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

class DummyFillTest : public testing::TestWithParam<std::tuple<Target, DType>> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(std::get<0>(GetParam())); }
};

// Row after row of a part of a larger tensor has the bits that one fill of float32 has there,
// rounded: elements depend on nothing but key and index, on every device.
TEST_P(DummyFillTest, GivesThePartOfOneTensor) {
  const auto [target, dtype] = GetParam();
  constexpr int64_t kWhole = 600;  // columns of the whole tensor
  Tensor whole(DType::kFloat32, 1, 12 * kWhole);
  FillDummy({.key = 5}, whole.view(), DeviceStream::Cpu());
  for (const int64_t first : {0, 1, 8, 605}) {
    for (const int64_t cols : {1, 7, 8, 9, 256, 599}) {
      Tensor out(dtype, 10, cols, 3);
      TargetRun run(target);
      FillDummy({.key = 5, .first = first, .stride = kWhole}, run.Out(out), run.stream());
      run.Finish();
      Tensor expected(dtype, 1, cols);
      for (int64_t r = 0; r < 10; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          expected.Set(0, c, whole.at(0, first + r * kWhole + c));
        }
        ASSERT_EQ(out.Bits(r), expected.Bits(0)) << "from " << first << ", row " << r;
      }
      EXPECT_TRUE(out.GuardsAreIntact());
    }
  }
}

TEST_P(DummyFillTest, CountsPast32Bits) {
  const auto [target, dtype] = GetParam();
  const int64_t first = (int64_t{5} << 35) + 3;
  Tensor out[2] = {Tensor(dtype, 1, 50), Tensor(dtype, 1, 50)};
  FillDummy({.key = ~uint64_t{0}, .first = first}, out[0].view(), DeviceStream::Cpu());
  TargetRun run(target);
  FillDummy({.key = ~uint64_t{0}, .first = first}, run.Out(out[1]), run.stream());
  run.Finish();
  EXPECT_EQ(out[0].Bits(0), out[1].Bits(0));
  Tensor low(dtype, 1, 50);
  FillDummy({.key = ~uint64_t{0}, .first = 3}, low.view(), DeviceStream::Cpu());
  EXPECT_NE(out[0].Bits(0), low.Bits(0));
}

INSTANTIATE_TEST_SUITE_P(All, DummyFillTest,
                         testing::Combine(testing::ValuesIn(AllTargets()),
                                          testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return NameOf(std::get<0>(info.param)) + "_" +
                                  NameOf(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace caravan
