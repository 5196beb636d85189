#include "worker/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace caravan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A capability that the build has code for; 0 in a build without CUDA.
int BuiltCapability() {
  for (int capability = 50; capability < 200; ++capability) {
    if (HasCodeFor(capability)) return capability;
  }
  return 0;
}

std::vector<CudaDevice> Gpus(int count, int capability) {
  std::vector<CudaDevice> devices;
  for (int i = 0; i < count; ++i) {
    CudaDevice& device = devices.emplace_back();
    device.index = i;
    device.name = "NVIDIA Test";
    device.compute_capability = capability;
  }
  return devices;
}

WorkerConfig Config(const std::string& device, int rank = 0, int gpu = -1) {
  WorkerConfig config;
  config.device = device;
  config.rank = rank;
  config.gpu = gpu;
  return config;
}

class ResolveOnGpus : public testing::Test {
 protected:
  void SetUp() override {
    if (BuiltCapability() == 0) GTEST_SKIP() << "a build without CUDA knows no GPU";
  }
};

TEST(ResolveDevice, AutoIsTheCpuWhereThereIsNoGpu) {
  WorkerConfig config = Config("auto");
  ASSERT_TRUE(ResolveDevice({}, "there is no NVIDIA driver", &config).ok());
  EXPECT_EQ(config.device, "cpu");
  EXPECT_EQ(config.rank_timeout_ms, 5000);
  EXPECT_EQ(config.wedge_timeout_ms, 120000);
}

TEST(ResolveDevice, CudaWithoutAGpuIsRefusedWithTheReason) {
  WorkerConfig config = Config("cuda");
  const absl::Status status = ResolveDevice({}, "there is no NVIDIA driver", &config);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("--device=cuda"), HasSubstr("there is no NVIDIA driver")));
}

TEST(ResolveDevice, AGivenTimeoutIsKept) {
  WorkerConfig config = Config("cpu");
  config.rank_timeout_ms = 700;
  config.wedge_timeout_ms = 2000;
  ASSERT_TRUE(ResolveDevice({}, "", &config).ok());
  EXPECT_EQ(config.rank_timeout_ms, 700);
  EXPECT_EQ(config.wedge_timeout_ms, 2000);
}

TEST_F(ResolveOnGpus, AutoTakesTheGpuOfTheRank) {
  WorkerConfig config = Config("auto", 2);
  ASSERT_TRUE(ResolveDevice(Gpus(4, BuiltCapability()), "", &config).ok());
  EXPECT_EQ(config.device, "cuda");
  EXPECT_EQ(config.gpu, 2);
  EXPECT_EQ(config.rank_timeout_ms, 1000);
  EXPECT_EQ(config.wedge_timeout_ms, 30000);
}

TEST_F(ResolveOnGpus, AGivenGpuIsTaken) {
  WorkerConfig config = Config("cuda", 1, 3);
  ASSERT_TRUE(ResolveDevice(Gpus(4, BuiltCapability()), "", &config).ok());
  EXPECT_EQ(config.gpu, 3);
}

TEST_F(ResolveOnGpus, MoreRanksThanGpusAreRefused) {
  WorkerConfig config = Config("auto", 2);
  const absl::Status status = ResolveDevice(Gpus(2, BuiltCapability()), "", &config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("rank 2"), HasSubstr("2 are visible"),
                                                   HasSubstr("--tensor_parallel")));
  config = Config("cuda", 0, 5);
  EXPECT_THAT(std::string(ResolveDevice(Gpus(1, BuiltCapability()), "", &config).message()),
              AllOf(HasSubstr("--gpu is 5"), HasSubstr("1 GPU is visible")));
}

TEST_F(ResolveOnGpus, AnArchitectureWithoutCodeIsRefusedAndPassedOverByAuto) {
  WorkerConfig config = Config("cuda");
  const absl::Status status = ResolveDevice(Gpus(1, 37), "", &config);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("compute capability 3.7"), HasSubstr("CARAVAN_CUDA_ARCHITECTURES")));
  config = Config("auto");
  ASSERT_TRUE(ResolveDevice(Gpus(1, 37), "", &config).ok());
  EXPECT_EQ(config.device, "cpu");
}

}  // namespace
}  // namespace caravan
