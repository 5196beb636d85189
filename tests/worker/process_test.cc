// The worker program itself, one to four ranks, on the bundled model.
#include "worker/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/device/cuda_stream.h"
#include "tests/worker/worker_client.h"
#include "tests/worker/worker_processes.h"
#include "worker/build_version.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

struct Answer {
  std::vector<int32_t> prompt;
  std::vector<int32_t> output;
};

// What transformers answers, greedily.
std::vector<Answer> GoldenAnswers() {
  std::ifstream file(CARAVAN_SOURCE_DIR "/tests/golden/demo.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  std::vector<Answer> answers;
  for (const nlohmann::json& answer : golden.at("answers")) {
    answers.push_back({answer.at("prompt_ids"), answer.at("greedy_ids")});
  }
  return answers;
}

v1::WorkerSubmit MakeGreedySubmit(uint64_t key, const std::vector<int32_t>& prompt,
                                  size_t max_tokens) {
  v1::WorkerSubmit submit = MakeSubmit(key, 0, static_cast<uint32_t>(max_tokens));
  submit.mutable_prompt_token_ids()->Add(prompt.begin(), prompt.end());
  return submit;
}

// All at once; `first_key` on.
void ExpectGoldenAnswers(WorkerClient& client, uint64_t first_key) {
  const std::vector<Answer> answers = GoldenAnswers();
  for (size_t i = 0; i < answers.size(); ++i) {
    client.Submit(MakeGreedySubmit(first_key + i, answers[i].prompt, answers[i].output.size()));
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    const ClientOutput& output = client.ReadUntilFinished(first_key + i);
    EXPECT_EQ(output.token_ids, answers[i].output)
        << "answer " << i << ": " << output.last.ShortDebugString();
  }
}

v1::GetWorkerStatusResponse StatusOf(WorkerClient& client) {
  grpc::ClientContext context;
  v1::GetWorkerStatusResponse response;
  EXPECT_TRUE(client.stub().GetStatus(&context, {}, &response).ok());
  return response;
}

class WorkerProcessTest : public ::testing::TestWithParam<int> {};

TEST_P(WorkerProcessTest, AnswersAsTransformersDoesAndDrainsOnSigterm) {
  WorkerProcesses replica(GetParam());
  {
    WorkerClient client(replica.leader());
    ASSERT_TRUE(client.ReadUntilWelcome());
    EXPECT_EQ(client.welcome().model().tensor_parallel(), static_cast<uint32_t>(GetParam()));
    EXPECT_EQ(client.last().epoch(), 1U);
    ExpectGoldenAnswers(client, 1);
    const v1::GetWorkerStatusResponse status = StatusOf(client);
    EXPECT_EQ(status.state(), "ready");
    ASSERT_EQ(status.ranks_size(), GetParam());
    for (const v1::WorkerRank& rank : status.ranks()) {
      EXPECT_EQ(rank.state(), "ready");
      EXPECT_GT(rank.memory_bytes(), 1U << 20);
    }
  }
  // SIGTERM to any rank drains all.
  replica.rank(GetParam() - 1).Signal(SIGTERM);
  for (int rank = 0; rank < GetParam(); ++rank) EXPECT_EQ(replica.rank(rank).Join(), 0) << rank;
}

INSTANTIATE_TEST_SUITE_P(TensorParallel, WorkerProcessTest, ::testing::Values(1, 2, 4));

TEST(WorkerProcesses, TheOtherCollectivesServeAsWell) {
  WorkerProcesses replica(2, {"--collectives=" + OtherCollectives()});
  WorkerClient client(replica.leader());
  ASSERT_TRUE(client.ReadUntilWelcome());
  ExpectGoldenAnswers(client, 1);
}

TEST(WorkerProcesses, AKilledFollowerFailsWhatRunsAndItsSuccessorServesInTheNextEpoch) {
  WorkerProcesses replica(2);
  WorkerClient client(replica.leader());
  ASSERT_TRUE(client.ReadUntilWelcome());
  client.Submit(MakeGreedySubmit(1, {1, 5, 6}, 2000));
  ASSERT_TRUE(client.ReadUntilTokens(1, 5));
  replica.rank(1).Signal(SIGKILL);
  const absl::Time killed = absl::Now();
  const v1::WorkerTokenEvent& last = client.ReadUntilFinished(1).last;
  EXPECT_EQ(last.code(), grpc::StatusCode::UNAVAILABLE) << last.ShortDebugString();
  EXPECT_LT(absl::Now() - killed, absl::Seconds(5));
  ASSERT_TRUE(client.ReadUntil([&] { return !client.load().ready(); }));
  replica.Start(1);
  ASSERT_TRUE(client.ReadUntilWelcome(2));
  EXPECT_GE(client.last().epoch(), 2U);
  ExpectGoldenAnswers(client, 10);
}

TEST(WorkerProcesses, AStoppedFollowerIsLostAndFencedAndServesAgainWhenItWakes) {
  WorkerProcesses replica(2);
  WorkerClient client(replica.leader());
  ASSERT_TRUE(client.ReadUntilWelcome());
  client.Submit(MakeGreedySubmit(1, {1, 5, 6}, 2000));
  ASSERT_TRUE(client.ReadUntilTokens(1, 5));
  replica.rank(1).Signal(SIGSTOP);
  EXPECT_EQ(client.ReadUntilFinished(1).last.code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(StatusOf(client).state(), "forming");
  replica.rank(1).Signal(SIGCONT);
  ASSERT_TRUE(client.ReadUntilWelcome(2));
  ExpectGoldenAnswers(client, 10);
}

TEST(WorkerProcesses, FollowersWaitForARestartedLeader) {
  WorkerProcesses replica(2);
  {
    WorkerClient client(replica.leader());
    ASSERT_TRUE(client.ReadUntilWelcome());
    replica.rank(0).Signal(SIGKILL);
    client.Finish();
  }
  replica.Start(0);
  WorkerClient client(replica.leader());
  ASSERT_TRUE(client.ReadUntilWelcome());
  ExpectGoldenAnswers(client, 1);
}

TEST(WorkerProcesses, AnIdleReplicaRecoversBeforeItsNextRequest) {
  WorkerProcesses replica(2);
  WorkerClient client(replica.leader());
  ASSERT_TRUE(client.ReadUntilWelcome());
  replica.rank(1).Signal(SIGKILL);
  ASSERT_TRUE(client.ReadUntil([&] { return !client.load().ready(); }));
  replica.Start(1);
  ASSERT_TRUE(client.ReadUntilWelcome(2));
  ExpectGoldenAnswers(client, 1);
}

// Memory of a rank: on its GPU, or resident.
uint64_t MemoryOf(WorkerClient& client, int rank) {
  const v1::WorkerRank info = StatusOf(client).ranks(rank);
  return TestDevice() == "cuda" ? info.device_memory_bytes() : info.memory_bytes();
}

// What ranks say of their GPUs may be a second old, and of themselves a heartbeat.
constexpr absl::Duration kOldestMemory = absl::Milliseconds(1300);

TEST_P(WorkerProcessTest, AnUnloadFreesEveryRanksMemoryAndALoadServesTheSameAnswers) {
  WorkerProcesses replica(GetParam());
  WorkerClient client(replica.leader());
  ASSERT_TRUE(client.ReadUntilWelcome());
  ExpectGoldenAnswers(client, 1);
  // Most of this rank's weights, and on a GPU its KV blocks too (64 MiB).
  const uint64_t weights = uint64_t{10} << 20;
  const uint64_t freed = weights / GetParam() + (TestDevice() == "cuda" ? uint64_t{64} << 20 : 0);
  for (uint64_t round = 1; round <= 2; ++round) {
    absl::SleepFor(kOldestMemory);
    std::vector<uint64_t> before;
    for (int rank = 0; rank < GetParam(); ++rank) before.push_back(MemoryOf(client, rank));
    grpc::ClientContext unload;
    v1::UnloadModelResponse unloaded;
    const grpc::Status status = client.stub().UnloadModel(&unload, {}, &unloaded);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(unloaded.status().state(), v1::WorkerModelStatus::UNLOADED);
    EXPECT_EQ(StatusOf(client).state(), "unloaded");
    for (int rank = 0; rank < GetParam(); ++rank) {
      const absl::Time deadline = absl::Now() + absl::Seconds(5);  // for the next heartbeats
      while (MemoryOf(client, rank) + freed > before[rank] && absl::Now() < deadline) {
        absl::SleepFor(absl::Milliseconds(10));
      }
      EXPECT_LE(MemoryOf(client, rank) + freed, before[rank]) << "rank " << rank;
      EXPECT_EQ(StatusOf(client).ranks(rank).state(), "unloaded");
    }
    client.Submit(MakeGreedySubmit(100 * round, {1, 5}, 3));
    const v1::WorkerTokenEvent refusal = client.ReadUntilFinished(100 * round).last;
    EXPECT_EQ(refusal.code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_THAT(refusal.message(), HasSubstr("unloaded"));
    grpc::ClientContext load;
    v1::LoadModelResponse loaded;
    ASSERT_TRUE(client.stub().LoadModel(&load, {}, &loaded).ok());
    EXPECT_EQ(loaded.status().state(), v1::WorkerModelStatus::LOADED);
    ExpectGoldenAnswers(client, 100 * round + 1);
  }
  EXPECT_GT(StatusOf(client).load().generated_tokens(), 0U) << "counters go on";
}

TEST(WorkerProcesses, AnUnloadLetsWhatRunsFinish) {
  WorkerProcesses replica(2);
  WorkerClient client(replica.leader());
  ASSERT_TRUE(client.ReadUntilWelcome());
  client.Submit(MakeGreedySubmit(1, {1, 5, 6}, 200));
  ASSERT_TRUE(client.ReadUntilTokens(1, 2));
  grpc::ClientContext unload;
  unload.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::UnloadModelResponse unloaded;
  const grpc::Status status = client.stub().UnloadModel(&unload, {}, &unloaded);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const v1::WorkerTokenEvent& last = client.ReadUntilFinished(1).last;
  EXPECT_TRUE(last.finish() == v1::WorkerTokenEvent::LENGTH ||
              last.finish() == v1::WorkerTokenEvent::STOP_TOKEN)
      << last.ShortDebugString();
  // And a replica without a model stops as well as one with.
  replica.rank(1).Signal(SIGTERM);
  for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(replica.rank(rank).Join(), 0) << rank;
}

TEST(BuildVersion, HoldsTheSourcesAndTheFlagsThatChangeWhatARankRuns) {
  const std::string sources = kBuildVersion;
  EXPECT_THAT(sources, ::testing::MatchesRegex("[0-9.]+[+][0-9a-f]{12}"));
  WorkerConfig config;
  config.device = "cpu";
  config.cuda_graphs = true;  // means nothing there
  config.batch_invariant = false;
  EXPECT_EQ(BuildVersion(config), sources);
  config.device = "cuda";
  EXPECT_EQ(BuildVersion(config), sources + " --cuda_graphs");
  config.batch_invariant = true;
  EXPECT_EQ(BuildVersion(config), sources + " --cuda_graphs --batch_invariant");
  config.cuda_graphs = false;
  EXPECT_EQ(BuildVersion(config), sources + " --batch_invariant");
}

TEST(WorkerProcesses, AStartThatCanNotSucceedEndsWithOneAndASentence) {
  char folder[] = "/tmp/caravan-worker-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string demo = "--model=" CARAVAN_SOURCE_DIR "/models/demo";
  WorkerProcess first(folder, "first", {demo, "--device=cpu", "--listen_address=127.0.0.1:0"});
  const auto expect_failure = [&](const std::string& words, const std::vector<std::string>& flags) {
    WorkerProcess process(folder, "failing", flags);
    EXPECT_EQ(process.Join(), 1) << words;
    EXPECT_THAT(process.Log(), HasSubstr(words));
  };
  expect_failure("--model is empty", {});
  std::string problem;
  if (FindCudaDevices(&problem).empty()) {
    expect_failure("--device=cuda can't be had: " + problem, {demo, "--device=cuda"});
  } else {
    expect_failure("--gpu is 99", {demo, "--device=cuda", "--gpu=99"});
  }
  expect_failure("/nowhere does not exist", {"--model=/nowhere", "--listen_address=127.0.0.1:0"});
  expect_failure("port is in use", {demo, "--listen_address=" + first.Address()});
  expect_failure("tensor_parallel", {demo, "--tensor_parallel=3", "--listen_address=127.0.0.1:0"});
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace caravan
