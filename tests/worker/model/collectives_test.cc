#include "worker/model/collectives.h"

#include <gtest/gtest.h>

#include <vector>

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

}  // namespace
}  // namespace caravan
