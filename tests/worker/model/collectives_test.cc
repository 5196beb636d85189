#include "worker/model/collectives.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/rms_norm.h"

namespace caravan {
namespace {

TEST(SingleRankCollectives, LeavesEverythingAsItIs) {
  SingleRankCollectives ranks;
  EXPECT_EQ(ranks.rank(), 0);
  EXPECT_EQ(ranks.world_size(), 1);
  std::vector<float> values = {1, 2, 3, 4};
  const std::vector<float> before = values;
  const MatrixView view = DenseMatrix(values.data(), DType::kFloat32, 2, 2);
  EXPECT_TRUE(ranks.AllReduceSum(view, DeviceStream::Cpu()).ok());
  EXPECT_TRUE(ranks.Broadcast(values.data(), sizeof(float) * 4, 0).ok());
  EXPECT_EQ(values, before);
  std::vector<float> gathered(4);
  const MatrixView full = DenseMatrix(gathered.data(), DType::kFloat32, 2, 2);
  EXPECT_TRUE(ranks.GatherColumns(view, full, DeviceStream::Cpu()).ok());
  EXPECT_EQ(gathered, before);
  EXPECT_TRUE(ranks.GatherColumns(view, view, DeviceStream::Cpu()).ok());
  EXPECT_EQ(values, before);
}

TEST(SingleRankCollectives, SumsAndNormalizesLikeAddRmsNorm) {
  SingleRankCollectives ranks;
  std::vector<float> partial = {1, -2, 3, 0.5F};
  std::vector<float> residual = {1, 1, -1, 2.5F};
  const std::vector<float> weight = {1, 2, 3, 4};
  std::vector<float> sum = residual;
  std::vector<float> expected(4);
  const auto matrix = [](std::vector<float>& x) {
    return DenseMatrix(x.data(), DType::kFloat32, 1, 4);
  };
  const ConstVectorView scale = {weight.data(), DType::kFloat32, 4};
  AddRmsNorm(matrix(partial), scale, 1e-5F, matrix(sum), matrix(expected), DeviceStream::Cpu());
  // In place of the addend.
  EXPECT_TRUE(
      ranks
          .AllReduceAddRmsNorm({matrix(partial), scale, 1e-5F, matrix(residual), matrix(partial)},
                               DeviceStream::Cpu())
          .ok());
  EXPECT_EQ(residual, (std::vector<float>{2, -1, 2, 3}));
  EXPECT_EQ(residual, sum);
  EXPECT_EQ(partial, expected);
  EXPECT_TRUE(ranks.gathers_on_all_ranks());
  EXPECT_TRUE(ranks.status().ok());
}

}  // namespace
}  // namespace caravan
