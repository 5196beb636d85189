#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

using EmbeddingCase = std::tuple<Target, DType, DType>;  // of the table, of out
class EmbeddingTest : public testing::TestWithParam<EmbeddingCase> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(std::get<0>(GetParam())); }
};

// Copies are exact, conversions to a narrower dtype round once, to the nearest.
TEST_P(EmbeddingTest, CopiesTheRowsOfThisShardAndZeroesTheOthers) {
  const auto [target, table_dtype, out_dtype] = GetParam();
  for (int64_t hidden : {1, 31, 32, 33, 128, 4096}) {
    const int64_t padding = hidden % 2 == 1 ? 3 : 8;
    const Tensor table = Tensor::Random(table_dtype, 10, hidden, 1, padding);
    const std::vector<int32_t> ids = {100, 109, 99, 110, 0, 104, 104, -1};
    Tensor out(out_dtype, static_cast<int64_t>(ids.size()), hidden, padding);
    TargetRun run(target);
    Embedding(run.In(ids), run.In(table), 100, run.Out(out), run.stream());
    run.Finish();
    for (int64_t t = 0; t < out.rows(); ++t) {
      const int64_t row = ids[t] - 100;
      Tensor expected(out_dtype, 1, hidden);
      for (int64_t c = 0; c < hidden; ++c) {
        expected.Set(0, c, row >= 0 && row < 10 ? table.at(row, c) : 0.0);
      }
      EXPECT_EQ(out.Bits(t), expected.Bits(0)) << "token " << ids[t] << ", hidden " << hidden;
    }
    EXPECT_TRUE(out.GuardsAreIntact());
  }
}

INSTANTIATE_TEST_SUITE_P(All, EmbeddingTest,
                         testing::Combine(testing::ValuesIn(AllTargets()),
                                          testing::ValuesIn(kAllDTypes),
                                          testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return NameOf(std::get<0>(info.param)) + "_" +
                                  NameOf(std::get<1>(info.param)) + "_" +
                                  NameOf(std::get<2>(info.param));
                         });

TEST(Embedding, TakesNoTokens) {
  const Tensor table = Tensor::Random(DType::kFloat32, 10, 8, 1);
  Tensor out(DType::kFloat32, 0, 8);
  Embedding({}, table.view(), 0, out.view(), DeviceStream::Cpu());
}

class GatherRowsTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(GetParam()); }
};

TEST_P(GatherRowsTest, PicksRowsInAnyOrderBitByBit) {
  for (DType dtype : kAllDTypes) {
    for (int64_t hidden : {33, 64, 4096}) {
      const int64_t padding = hidden % 2 == 1 ? 1 : 8;
      const Tensor x = Tensor::Random(dtype, 20, hidden, 1, padding);
      const std::vector<int32_t> rows = {19, 0, 7, 7};
      Tensor out(dtype, 4, hidden, padding);
      TargetRun run(GetParam());
      GatherRows(run.In(x), run.In(rows), run.Out(out), run.stream());
      run.Finish();
      for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(out.Bits(i), x.Bits(rows[i]));
      EXPECT_TRUE(out.GuardsAreIntact());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GatherRowsTest, testing::ValuesIn(AllTargets()),
                         [](const auto& info) { return NameOf(info.param); });

TEST(GatherRowsDeathTest, RefusesARowThatIsNotThere) {
  const Tensor x = Tensor::Random(DType::kFloat32, 2, 4, 1);
  Tensor out(DType::kFloat32, 1, 4);
  const std::vector<int32_t> rows = {2};
  EXPECT_DEATH(GatherRows(x.view(), rows, out.view(), DeviceStream::Cpu()), "row 2 of 2");
}

}  // namespace
}  // namespace caravan
