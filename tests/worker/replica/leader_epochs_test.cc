#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/replica/replica_fixture.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

TEST(LeaderEpochs, WarnsOnceOfWhatSumsCostWithoutPeerMemory) {
  testing::internal::CaptureStderr();
  {
    LeaderOptions options;
    options.tensor_parallel = 2;
    options.gpu = 0;
    TestLeader leader(options);
    ScriptedFollower follower(leader.address(), 77);
    follower.SayHello(1, 2, /*neighbour=*/false, "cuda");
    // Where there is no GPU the leader itself can't form an epoch; else the follower can't.
    for (int epochs_lost = 0; epochs_lost < 2;) {
      const v1::LeaderMessage heard = follower.Hear();
      ASSERT_TRUE(heard.has_configure() || heard.has_abort()) << heard.ShortDebugString();
      if (heard.has_abort()) {
        ++epochs_lost;
        continue;
      }
      EXPECT_EQ(heard.configure().collectives(), "nccl");
      follower.SayFailed(heard.epoch(), "no nccl here", absl::StatusCode::kFailedPrecondition);
    }
  }
  const std::string log = testing::internal::GetCapturedStderr();
  const size_t warning = log.find("sums through nccl");
  ASSERT_NE(warning, std::string::npos) << log;
  EXPECT_EQ(log.find("sums through nccl", warning + 1), std::string::npos) << log;
  const std::string line = log.substr(warning, log.find('\n', warning) - warning);
  EXPECT_THAT(line, HasSubstr("ranks are on several hosts"));
  EXPECT_THAT(line, HasSubstr("6 to 10 us longer"));
  EXPECT_THAT(line, HasSubstr("20 to 33 us at 512"));
  EXPECT_THAT(line, HasSubstr("a network"));
}

}  // namespace
}  // namespace caravan
