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

LeaderOptions OptionsOfLeader(int world_size, const std::string& collectives = "auto") {
  LeaderOptions options;
  options.tensor_parallel = world_size;
  options.collectives = collectives;
  return options;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

struct Case {
  int world_size;
  const char* collectives;
};

class ReplicaTest : public ::testing::TestWithParam<Case> {
 protected:
  ReplicaTest() : leader_(OptionsOfLeader(world_size(), GetParam().collectives)) {
    for (int rank = 1; rank < world_size(); ++rank) followers_.push_back(Follow(rank));
  }
  static int world_size() { return GetParam().world_size; }

  std::unique_ptr<TestFollower> Follow(int rank) {
    return std::make_unique<TestFollower>(leader_.address(), rank, world_size());
  }
  void ExpectSteps(uint64_t first, uint64_t last) {
    for (uint64_t step = first; step <= last; ++step) {
      const absl::StatusOr<int32_t> token = leader_.Step(step);
      ASSERT_TRUE(token.ok()) << token.status();
      EXPECT_EQ(*token, FakeRankRunner::TokenOf(step, world_size()));
    }
  }

  TestLeader leader_;
  std::vector<std::unique_ptr<TestFollower>> followers_;
};

TEST_P(ReplicaTest, AllRanksFormAnEpochAndRunTheSameSteps) {
  ASSERT_TRUE(leader_.runner->Recover(kLong).ok());
  EXPECT_EQ(leader_.leader->epoch(), 1U);
  EXPECT_EQ(leader_.epochs, 1);
  ExpectSteps(1, 50);
  EXPECT_TRUE(leader_.runner->Recover(absl::ZeroDuration()).ok()) << "nothing was lost";
  EXPECT_EQ(leader_.epochs, 1);
  for (const v1::WorkerRank& rank : leader_.leader->followers()) EXPECT_EQ(rank.state(), "ready");
}

TEST_P(ReplicaTest, AFollowerThatLeavesIsUnavailableAndItsSuccessorJoinsTheNextEpoch) {
  ASSERT_TRUE(leader_.runner->Recover(kLong).ok());
  ExpectSteps(1, 3);
  followers_[0] = nullptr;
  absl::StatusOr<int32_t> token = leader_.Step(4);
  // It may have run that step before it left.
  if (token.ok()) token = leader_.Step(5);
  EXPECT_EQ(token.status().code(), absl::StatusCode::kUnavailable) << token.status();
  while (leader_.leader->followers()[0].state() != "lost") std::this_thread::yield();
  EXPECT_EQ(leader_.runner->status().code(), absl::StatusCode::kUnavailable);
  const absl::Status waiting = leader_.runner->Recover(absl::Milliseconds(20));
  EXPECT_EQ(waiting.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Message(waiting), HasSubstr("rank 1"));

  followers_[0] = Follow(1);
  ASSERT_TRUE(leader_.runner->Recover(kLong).ok());
  EXPECT_GE(leader_.leader->epoch(), 2U);
  ExpectSteps(1, 20);
  for (size_t i = 1; i < followers_.size(); ++i) EXPECT_GE(followers_[i]->local.epochs(), 2);
}

TEST_P(ReplicaTest, FollowersFindTheNextLeaderAtTheSameAddress) {
  ASSERT_TRUE(leader_.runner->Recover(kLong).ok());
  ExpectSteps(1, 3);
  const std::string address = leader_.address();
  leader_.leader->Stop();
  leader_.server->Shutdown(absl::Now());
  TestLeader next(OptionsOfLeader(world_size(), GetParam().collectives), address);
  ASSERT_TRUE(next.runner->Recover(kLong).ok());
  const absl::StatusOr<int32_t> token = next.Step(1);
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_EQ(*token, FakeRankRunner::TokenOf(1, world_size()));
}

INSTANTIATE_TEST_SUITE_P(Groups, ReplicaTest,
                         ::testing::Values(Case{2, "auto"}, Case{4, "auto"}, Case{2, "gloo"},
                                           Case{4, "gloo"}),
                         [](const auto& info) {
                           return std::string(info.param.collectives) + "_" +
                                  std::to_string(info.param.world_size);
                         });

TEST(Leader, AReplicaOfOneRankFormsItsEpochAlone) {
  TestLeader leader(OptionsOfLeader(1));
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  EXPECT_EQ(*leader.Step(1), 1);
  EXPECT_EQ(leader.leader->epoch(), 1U);
}

TEST(Leader, RanksAgreeOnTheLeastNumberOfBlocks) {
  TestLeader leader(OptionsOfLeader(2));
  RunnerLimits limits = FakeRankRunner::DefaultLimits();
  limits.num_blocks = 70;
  TestFollower follower(OptionsOfFollower(leader.address(), 1, 2), limits);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  EXPECT_EQ(leader.runner->limits().num_blocks, 70);
}

TEST(Leader, AFollowerThatDoesNotFitIsRefusedWithBothValues) {
  TestLeader leader(OptionsOfLeader(2));
  const auto expect_refused = [&](const char* words, auto change) {
    FollowerOptions options = OptionsOfFollower(leader.address(), 1, 2);
    RunnerLimits limits = FakeRankRunner::DefaultLimits();
    change(options, limits);
    TestFollower follower(options, limits);
    const absl::Status status = follower.Join();
    EXPECT_FALSE(status.ok()) << words;
    EXPECT_THAT(Message(status), HasSubstr(words));
  };
  expect_refused("--tensor_parallel 4, the leader 2",
                 [](FollowerOptions& o, RunnerLimits&) { o.tensor_parallel = 4; });
  expect_refused("rank 3 does not fit", [](FollowerOptions& o, RunnerLimits&) {
    o.rank = 3;
    o.tensor_parallel = 4;
  });
  expect_refused("fingerprint beef, the leader f00d",
                 [](FollowerOptions& o, RunnerLimits&) { o.fingerprint = "beef"; });
  expect_refused("rank 1 is of build 0, the leader of test: start all ranks from one build",
                 [](FollowerOptions& o, RunnerLimits&) { o.build = "0"; });
  expect_refused("device cuda, the leader cpu",
                 [](FollowerOptions& o, RunnerLimits&) { o.gpu = 0; });
  expect_refused("block_tokens=8", [](FollowerOptions&, RunnerLimits& l) { l.block_tokens = 8; });
  // The replica is none the worse for it.
  TestFollower follower(leader.address(), 1, 2);
  EXPECT_TRUE(leader.runner->Recover(kLong).ok());
}

TEST(Leader, DropsWhatAnOlderEpochOrInstanceSays) {
  TestLeader leader(OptionsOfLeader(2));
  ScriptedFollower follower(leader.address(), 77);
  follower.SayHello(1, 2);
  v1::LeaderMessage heard = follower.Hear();
  ASSERT_TRUE(heard.has_configure());
  EXPECT_EQ(heard.epoch(), 1U);
  EXPECT_EQ(heard.configure().collectives(), "gloo") << "hosts differ";
  EXPECT_EQ(heard.configure().num_blocks(), 50U);
  follower.SayRendezvous(0, "stale epoch");
  follower.set_instance(76);
  follower.SayRendezvous(1, "stale instance");
  follower.set_instance(77);
  follower.SayFailed(1, "over");
  // Had one of them counted, a Rendezvous would come first.
  heard = follower.Hear();
  EXPECT_TRUE(heard.has_abort()) << heard.ShortDebugString();
  heard = follower.Hear();
  EXPECT_TRUE(heard.has_configure()) << heard.ShortDebugString();
  EXPECT_EQ(heard.epoch(), 2U);
  follower.SayFailed(1, "late news of epoch 1");
  follower.SayRendezvous(2, "");
  heard = follower.Hear();
  EXPECT_TRUE(heard.has_rendezvous()) << heard.ShortDebugString();
}

TEST(Leader, ASilentFollowerIsLostAndWhatItSaysLaterIsNotHeard) {
  LeaderOptions options = OptionsOfLeader(2);
  options.rank_timeout = absl::Milliseconds(300);
  TestLeader leader(options);
  ScriptedFollower stopped(leader.address(), 77);
  stopped.answers_heartbeats = false;
  stopped.SayHello(1, 2);
  ASSERT_TRUE(stopped.Hear().has_configure());
  const absl::Time start = absl::Now();
  while (leader.leader->followers()[0].state() != "lost") std::this_thread::yield();
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  // It wakes: its stream is gone, and the next process has its place.
  TestFollower next(leader.address(), 1, 2);
  stopped.SayRendezvous(1, "late");
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  EXPECT_EQ(*leader.Step(1), FakeRankRunner::TokenOf(1, 2));
}

TEST(Leader, ASecondProcessOfARankTakesItsPlace) {
  TestLeader leader(OptionsOfLeader(2));
  TestFollower first(leader.address(), 1, 2);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  TestFollower second(leader.address(), 1, 2);
  const absl::Status status = first.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_THAT(Message(status), HasSubstr("another process"));
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  EXPECT_EQ(*leader.Step(1), FakeRankRunner::TokenOf(1, 2));
}

TEST(Leader, GivesSharedMemoryUpWhereAFollowerCanNotMapIt) {
  LeaderOptions options = OptionsOfLeader(2);
  TestLeader leader(options);
  ScriptedFollower follower(leader.address(), 77);
  follower.SayHello(1, 2, /*neighbour=*/true);
  v1::LeaderMessage heard = follower.Hear();
  ASSERT_TRUE(heard.has_configure());
  EXPECT_EQ(heard.configure().collectives(), "shared_memory");
  follower.SayFailed(heard.epoch(), "can't open shared memory");
  EXPECT_TRUE(follower.Hear().has_abort());
  heard = follower.Hear();
  ASSERT_TRUE(heard.has_configure());
  EXPECT_EQ(heard.configure().collectives(), "shared_memory") << "once may be a rank that died";
  follower.SayFailed(heard.epoch(), "can't open shared memory");
  EXPECT_TRUE(follower.Hear().has_abort());
  heard = follower.Hear();
  ASSERT_TRUE(heard.has_configure());
  EXPECT_EQ(heard.configure().collectives(), "gloo");
}

// A rank that died before the others had mapped its memory made the leader do without for good.
TEST(Leader, BelievesAFailureOfACollectivesKindOnlyTwiceInARow) {
  TestLeader leader(OptionsOfLeader(2));
  ScriptedFollower follower(leader.address(), 77);
  follower.SayHello(1, 2, /*neighbour=*/true);
  v1::LeaderMessage heard = follower.Hear();
  const auto expect_shared_memory = [&] {
    ASSERT_TRUE(heard.has_configure()) << heard.ShortDebugString();
    EXPECT_EQ(heard.configure().collectives(), "shared_memory");
  };
  const auto fail = [&] {
    follower.SayFailed(heard.epoch(), "no map", absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(follower.Hear().has_abort());
    heard = follower.Hear();
  };
  expect_shared_memory();
  fail();
  expect_shared_memory();
  follower.SayRendezvous(heard.epoch(), heard.configure().shared_memory_name());
  ASSERT_TRUE(follower.Hear().has_rendezvous());
  v1::FollowerMessage ready;
  ready.mutable_ready();
  follower.Say(heard.epoch(), std::move(ready));
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  fail();  // once that it stands: the epoch falls
  expect_shared_memory();
  fail();
  expect_shared_memory();
}

TEST(Leader, EndsWithASentenceWhereNoCollectivesAreLeft) {
  TestLeader leader(OptionsOfLeader(2, "nccl"));
  TestFollower follower(leader.address(), 1, 2);
  const absl::Status status = leader.runner->Recover(kLong);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(Message(status), HasSubstr("--collectives=nccl is for ranks on GPUs"));
}

TEST(Leader, EndsWithASentenceWhereAFollowerCanNotHaveTheCollectivesAskedFor) {
  TestLeader leader(OptionsOfLeader(2, "gloo"));
  ScriptedFollower follower(leader.address(), 77);
  follower.SayHello(1, 2);
  for (int i = 0; i < 2; ++i) {
    const v1::LeaderMessage heard = follower.Hear();
    ASSERT_TRUE(heard.has_configure());
    follower.SayFailed(heard.epoch(), "no gloo here", absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(follower.Hear().has_abort());
  }
  const absl::Status status = leader.runner->Recover(kLong);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(Message(status), HasSubstr("no gloo here"));
}

// Ranks that find no way to each other must not try for ever in silence.
TEST(Leader, EndsWithASentenceWhereTheSameRanksCanNotFormAGroupThreeTimes) {
  TestLeader leader(OptionsOfLeader(2, "gloo"));
  const auto fail = [&](ScriptedFollower* follower, int times) {
    for (int i = 0; i < times; ++i) {
      const v1::LeaderMessage heard = follower->Hear();
      ASSERT_TRUE(heard.has_configure()) << heard.ShortDebugString();
      follower->SayFailed(heard.epoch(), "host a can't connect to host b");
      EXPECT_TRUE(follower->Hear().has_abort());
    }
  };
  {
    ScriptedFollower first(leader.address(), 77);
    first.SayHello(1, 2);
    fail(&first, 2);
    ASSERT_TRUE(first.Hear().has_configure());
  }
  // Another process is another chance.
  ScriptedFollower second(leader.address(), 78);
  second.SayHello(1, 2);
  fail(&second, 2);
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(leader.leader->AwaitEpoch(0, absl::ZeroDuration()).status()));
  fail(&second, 1);
  const absl::Status status = leader.runner->Recover(kLong);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(Message(status), HasSubstr("could not form a group 3 times in a row"));
  EXPECT_THAT(Message(status), HasSubstr("rank 1 failed: host a can't connect to host b"));
}

TEST(Leader, FollowersDrainTheReplicaAndLeaveWhenItHasDrained) {
  std::atomic<int> drains{0};
  LeaderOptions options = OptionsOfLeader(3);
  options.on_drain = [&] { ++drains; };
  TestLeader leader(options);
  TestFollower asked(leader.address(), 1, 3);
  TestFollower other(leader.address(), 2, 3);
  ASSERT_TRUE(leader.runner->Recover(kLong).ok());
  asked.follower.Drain();
  while (drains == 0) std::this_thread::yield();
  EXPECT_EQ(*leader.Step(1), FakeRankRunner::TokenOf(1, 3)) << "requests in flight go on";
  leader.leader->Dismiss(absl::OkStatus());
  EXPECT_TRUE(asked.Join().ok());
  EXPECT_TRUE(other.Join().ok());
}

TEST(Follower, DrainWithoutALeaderEndsIt) {
  TestFollower follower("127.0.0.1:1", 1, 2);
  follower.follower.Drain();
  EXPECT_TRUE(follower.Join().ok());
}

}  // namespace
}  // namespace caravan
