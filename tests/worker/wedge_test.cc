// Ranks that live, heartbeats and all, but whose step does not go on: one thread of a real process
// is stopped, as a device that hangs would stop it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <tuple>

#include "tests/worker/worker_client.h"
#include "tests/worker/worker_processes.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

// The thread that runs a worker's steps, 0 where there is none.
pid_t RunnerThreadOf(pid_t process) {
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", process, "/task"))) {
    std::ifstream file(task.path() / "comm");
    std::string name;
    std::getline(file, name);
    if (name == "runner") return std::stoi(task.path().filename());
  }
  return 0;
}

// A thread of a child that stands still from now on. For one thread of ours.
class StoppedThread {
 public:
  explicit StoppedThread(pid_t thread) : thread_(thread) {
    allowed_ = ptrace(PTRACE_SEIZE, thread_, nullptr, nullptr) == 0;
    if (!allowed_) return;
    ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr);
    waitpid(thread_, nullptr, __WALL);
  }
  // False where this process may not trace its children (a sandbox).
  bool allowed() const { return allowed_; }
  // Waits for its process to end, of which the parent hears only then.
  void AwaitEnd() const {
    int status = 0;
    while (waitpid(thread_, &status, __WALL) == thread_ && WIFSTOPPED(status)) {
    }
  }

 private:
  const pid_t thread_;
  bool allowed_ = false;
};

// The rank, and whether the ranks sum by what `auto` does not choose.
class WedgedRank : public ::testing::TestWithParam<std::tuple<int, bool>> {};

TEST_P(WedgedRank, EndsAndItsSuccessorServesInTheNextEpoch) {
  const auto [rank, other] = GetParam();
  WorkerProcesses replica(
      2, {"--wedge_timeout_ms=1000", "--collectives=" + (other ? OtherCollectives() : "auto")});
  auto client = std::make_unique<WorkerClient>(replica.leader());
  ASSERT_TRUE(client->ReadUntilWelcome());
  const StoppedThread runner(RunnerThreadOf(replica.rank(rank).pid()));
  if (!runner.allowed()) GTEST_SKIP() << "may not stop a thread of a child";
  v1::WorkerSubmit submit = MakeSubmit(1, 0, 20);
  submit.add_prompt_token_ids(5);
  client->Submit(submit);
  const absl::Time start = absl::Now();
  runner.AwaitEnd();
  EXPECT_EQ(replica.rank(rank).Join(), 1);
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  EXPECT_THAT(replica.rank(0).Log(), HasSubstr("no progress for 1s"));
  EXPECT_THAT(replica.rank(rank).Log(), HasSubstr("can't leave its step"));
  if (rank > 0) {
    EXPECT_EQ(client->ReadUntilFinished(1).last.code(), grpc::StatusCode::UNAVAILABLE);
  } else {
    client->Finish();  // its session broke
  }
  client = nullptr;
  replica.Start(rank);
  WorkerClient next(replica.leader());
  ASSERT_TRUE(next.ReadUntilWelcome());
  submit.set_key(2);
  next.Submit(submit);
  EXPECT_FALSE(next.ReadUntilFinished(2).token_ids.empty());
}

INSTANTIATE_TEST_SUITE_P(Ranks, WedgedRank,
                         ::testing::Combine(::testing::Values(0, 1), ::testing::Bool()));

}  // namespace
}  // namespace caravan
