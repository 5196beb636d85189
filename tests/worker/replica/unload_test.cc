// Replicas whose ranks release their model and load it again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/worker/replica/replica_fixture.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(20);

// A follower that makes its runner when it is told to.
class LoadingFollower {
 public:
  LoadingFollower(const std::string& address, int rank, int world_size, bool loaded) {
    FollowerOptions options = OptionsOfFollower(address, rank, world_size);
    options.load = [this]() -> absl::StatusOr<LoadedRank> {
      RETURN_IF_ERROR(load_error);
      auto made = std::make_shared<FakeRankRunner>(FakeRankRunner::DefaultLimits());
      const std::lock_guard lock(mutex_);
      runner_ = made;
      ++loads;
      return LoadedRank{runner_.get(), kFingerprint};
    };
    options.unload = [this] {
      const std::lock_guard lock(mutex_);
      runner_ = nullptr;
    };
    if (loaded) runner_ = std::make_shared<FakeRankRunner>(FakeRankRunner::DefaultLimits());
    follower_ = std::make_unique<ReplicaFollower>(options, runner_.get());
    thread_ = std::thread([this] { status = follower_->Run(); });
  }
  ~LoadingFollower() {
    follower_->Stop();
    Join();
  }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }

  // Null once it is destroyed.
  std::weak_ptr<FakeRankRunner> runner() {
    const std::lock_guard lock(mutex_);
    return runner_;
  }

  absl::Status load_error;  // set while it does not load
  std::atomic<int> loads{0};
  absl::Status status;  // after Join

 private:
  std::mutex mutex_;
  std::shared_ptr<FakeRankRunner> runner_;
  std::unique_ptr<ReplicaFollower> follower_;
  std::thread thread_;
};

LeaderOptions OptionsOfLeader(int world_size) {
  LeaderOptions options;
  options.tensor_parallel = world_size;
  return options;
}

// What LeaderProcess does after an unload.
void LoadAgain(TestLeader& leader) {
  leader.leader->Load();
  leader.leader->Begin(kFingerprint, &leader.local);
}

TEST(Unload, DestroysTheRunnersOfAllRanksWhichStayAndLoadThemAgain) {
  TestLeader leader(OptionsOfLeader(3));
  LoadingFollower first(leader.address(), 1, 3, /*loaded=*/true);
  LoadingFollower second(leader.address(), 2, 3, /*loaded=*/true);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  EXPECT_EQ(*leader.Step(1), FakeRankRunner::TokenOf(1, 3));
  for (int round = 1; round <= 3; ++round) {
    const std::weak_ptr<FakeRankRunner> old = first.runner();
    leader.leader->Unload();
    ASSERT_TRUE(leader.leader->AwaitUnloaded(kLong).ok());
    EXPECT_TRUE(old.expired());
    EXPECT_TRUE(second.runner().expired());
    EXPECT_EQ(leader.Step(2).status().code(), absl::StatusCode::kUnavailable);
    for (const v1::WorkerRank& rank : leader.leader->followers()) {
      EXPECT_EQ(rank.state(), "unloaded");
    }
    LoadAgain(leader);
    ASSERT_TRUE(leader.runner->Recover(kLong).ok());
    EXPECT_EQ(*leader.Step(1), FakeRankRunner::TokenOf(1, 3));
    EXPECT_EQ(first.loads, round);
  }
}

TEST(Unload, AFollowerThatComesWithAModelIsToldToReleaseIt) {
  TestLeader leader(OptionsOfLeader(2));
  leader.leader->Unload();
  LoadingFollower follower(leader.address(), 1, 2, /*loaded=*/true);
  while (!follower.runner().expired()) std::this_thread::yield();
  LoadAgain(leader);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
}

TEST(Unload, AFollowerThatComesWithoutAModelIsToldToLoadIt) {
  TestLeader leader(OptionsOfLeader(2));
  auto follower = std::make_unique<LoadingFollower>(leader.address(), 1, 2, /*loaded=*/false);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  EXPECT_EQ(*leader.Step(1), FakeRankRunner::TokenOf(1, 2));
  follower = nullptr;
  follower = std::make_unique<LoadingFollower>(leader.address(), 1, 2, /*loaded=*/false);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  absl::StatusOr<int32_t> token = leader.Step(1);
  if (!token.ok()) {  // the leader heard of the loss in this step alone
    ASSERT_TRUE(leader.runner->Recover(kLong).ok());
    token = leader.Step(1);
  }
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_EQ(*token, FakeRankRunner::TokenOf(1, 2));
}

TEST(Unload, ARankThatCanNotLoadFailsTheLoadWithItsReasonAndANextOneMaySucceed) {
  TestLeader leader(OptionsOfLeader(2));
  LoadingFollower follower(leader.address(), 1, 2, /*loaded=*/true);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  leader.leader->Unload();
  ASSERT_TRUE(leader.leader->AwaitUnloaded(kLong).ok());
  follower.load_error = absl::NotFoundError("no such file");
  LoadAgain(leader);
  const absl::Status status = leader.runner->Recover(kLong);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1: no such file"));
  leader.leader->Unload();
  ASSERT_TRUE(leader.leader->AwaitUnloaded(kLong).ok());
  follower.load_error = absl::OkStatus();
  LoadAgain(leader);
  EXPECT_TRUE(leader.runner->Recover(kLong).ok());
}

TEST(Unload, ARankThatCanNotLoadWhileTheReplicaServedIsRefused) {
  TestLeader leader(OptionsOfLeader(2));
  {
    LoadingFollower follower(leader.address(), 1, 2, /*loaded=*/true);
    ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  }
  FollowerOptions options = OptionsOfFollower(leader.address(), 1, 2);
  ReplicaFollower broken(options, nullptr);
  const absl::Status status = broken.Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  LoadingFollower next(leader.address(), 1, 2, /*loaded=*/false);
  EXPECT_TRUE(leader.runner->Recover(kLong).ok());
}

TEST(Unload, ARankThatDoesNotReleaseItsModelIsNamed) {
  TestLeader leader(OptionsOfLeader(2));
  ScriptedFollower follower(leader.address(), 77);
  follower.SayHello(1, 2);
  ASSERT_TRUE(follower.Hear().has_configure());
  leader.leader->Unload();
  const absl::Status status = leader.leader->AwaitUnloaded(absl::Milliseconds(20));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
  EXPECT_TRUE(follower.Hear().has_abort());
  EXPECT_TRUE(follower.Hear().has_unload());
}

}  // namespace
}  // namespace caravan
