// Ranks that live but do not get on: nothing waits for them without a limit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "tests/worker/replica/replica_fixture.h"

namespace caravan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(20);
// Above what a busy machine makes of a step of no work.
constexpr absl::Duration kWedgeTimeout = absl::Seconds(2);

LeaderOptions OptionsOfLeader(int world_size, absl::Duration wedge_timeout) {
  LeaderOptions options;
  options.tensor_parallel = world_size;
  options.wedge_timeout = wedge_timeout;
  return options;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(Wedge, AStepWithoutProgressLosesItsEpochAndTheReplicaGoesOn) {
  TestLeader leader(OptionsOfLeader(2, kWedgeTimeout));
  TestFollower follower(leader.address(), 1, 2);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  ASSERT_TRUE(leader.Step(1).ok());
  follower.local.Hold();
  const absl::Time start = absl::Now();
  const absl::Status lost = leader.Step(2).status();
  EXPECT_LT(absl::Now() - start, kLong);
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
  EXPECT_THAT(Message(lost), AllOf(HasSubstr("no progress for 2s"),
                                   HasSubstr("rank 1 (1 steps done, in layer 0)")));
  follower.local.Release();
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  EXPECT_EQ(*leader.Step(3), FakeRankRunner::TokenOf(3, 2));
}

// The others form no epoch with it, so its end is what lets the replica go on.
TEST(Wedge, AFollowerThatCanNotLeaveItsStepSaysSo) {
  TestLeader leader(OptionsOfLeader(2, kWedgeTimeout));
  std::atomic<int> wedged = 0;
  FollowerOptions options = OptionsOfFollower(leader.address(), 1, 2);
  options.wedge_timeout = kWedgeTimeout;
  options.on_wedged = [&](const std::string&) { ++wedged; };
  TestFollower follower(options);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  follower.local.Hold();
  EXPECT_FALSE(leader.Step(1).ok());
  EXPECT_EQ(wedged, 0) << "it may still come free";
  const absl::Time deadline = absl::Now() + kLong;
  while (wedged == 0 && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(wedged, 1);
  follower.local.Release();
}

class WedgedLeader : public ::testing::TestWithParam<int> {};

TEST_P(WedgedLeader, SaysThatItCanNotLeaveItsStep) {
  std::atomic<int> wedged = 0;
  LeaderOptions options = OptionsOfLeader(GetParam(), kWedgeTimeout);
  options.on_wedged = [&](const std::string&) { ++wedged; };
  TestLeader leader(options);
  std::unique_ptr<TestFollower> follower;
  if (GetParam() > 1) follower = std::make_unique<TestFollower>(leader.address(), 1, GetParam());
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  leader.local.Hold();
  std::thread step([&] { EXPECT_EQ(leader.Step(1).ok(), GetParam() == 1); });
  const absl::Time deadline = absl::Now() + kLong;
  while (wedged == 0 && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_GT(wedged, 0);
  EXPECT_FALSE(leader.runner->status().ok()) << "readiness falls";
  leader.local.Release();
  step.join();
}

INSTANTIATE_TEST_SUITE_P(Ranks, WedgedLeader, ::testing::Values(1, 2));

class BrokenGroup : public ::testing::TestWithParam<const char*> {};

TEST_P(BrokenGroup, IsNoticedWhileNothingRuns) {
  LeaderOptions options = OptionsOfLeader(2, kLong);
  options.collectives = GetParam();
  TestLeader leader(options);
  TestFollower follower(leader.address(), 1, 2);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  for (FakeRankRunner* rank : {&follower.local, &leader.local}) {
    rank->BreakGroup();
    const absl::Time deadline = absl::Now() + kLong;
    while (leader.runner->status().ok() && absl::Now() < deadline) std::this_thread::yield();
    EXPECT_EQ(leader.runner->status().code(), absl::StatusCode::kUnavailable);
    ASSERT_TRUE(leader.runner->Recover(kLong).ok());
    // The runner may see that the group broke before the leader has ended the epoch.
    absl::StatusOr<int32_t> token = leader.Step(1);
    while (!token.ok() && absl::Now() < deadline) {
      ASSERT_TRUE(leader.runner->Recover(kLong).ok());
      token = leader.Step(1);
    }
    ASSERT_TRUE(token.ok()) << token.status();
    EXPECT_EQ(*token, FakeRankRunner::TokenOf(1, 2));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, BrokenGroup, ::testing::Values("shared_memory", "gloo"));

TEST(Follower, SaysBeforeAnyStepThatItCanNotMakeReadyForAnEpoch) {
  TestLeader leader(OptionsOfLeader(2, kLong));
  TestFollower follower(leader.address(), 1, 2);
  follower.local.PrepareWith(absl::UnavailableError("a rank was lost in the first step"));
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  const absl::Time deadline = absl::Now() + kLong;
  while (leader.runner->status().ok() && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_THAT(Message(leader.runner->status()), HasSubstr("lost in the first step"));
  follower.local.PrepareWith(absl::OkStatus());
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  // Two epochs may have fallen, one of them while Recover returned.
  while (!leader.Step(1).ok()) ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  // What no other epoch can mend ends it.
  follower.local.PrepareWith(absl::InternalError("no code for this device"));
  follower.local.BreakGroup();
  EXPECT_EQ(follower.Join().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace caravan
