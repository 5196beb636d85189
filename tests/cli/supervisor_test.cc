#include "cli/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace caravan {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Seconds(20);

// Runs /bin/sh scripts and keeps what they say.
class SupervisorTest : public ::testing::Test {
 protected:
  int Start(const std::string& name, const std::string& script) {
    return *supervisor_.Start({.name = name, .argv = {"/bin/sh", "-c", script}, .environment = {}});
  }
  absl::Status Await(const std::function<bool()>& done) {
    return supervisor_.PollUntil(done, absl::Now() + kLimit, "the test");
  }
  absl::Status AwaitLine(const std::string& name, const std::string& line) {
    return Await([&] { return Count(name, line) > 0; });
  }
  int Count(const std::string& name, const std::string& line) {
    int count = 0;
    for (const std::string& said : lines_[name]) count += said == line ? 1 : 0;
    return count;
  }

  std::map<std::string, std::vector<std::string>> lines_;
  Supervisor supervisor_{
      [this](const std::string& name, const std::string& line) { lines_[name].push_back(line); }};
};

TEST_F(SupervisorTest, PassesLinesOfBothOutputsOn) {
  Start("a", "echo out; echo err >&2; printf 'no end'; exec cat /dev/zero >/dev/null");
  EXPECT_TRUE(AwaitLine("a", "err").ok());
  EXPECT_EQ(Count("a", "out"), 1);
}

TEST_F(SupervisorTest, TakesAnEndBeforeKeepAliveForAFailureInItsOwnWords) {
  Start("worker 0", "echo 'there is no config.json' >&2; exit 1");
  const absl::Status status = Await([] { return false; });
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("worker 0 ended (exit code 1): there is no config.json"));
}

TEST_F(SupervisorTest, SaysWhatCouldNotBeStarted) {
  ASSERT_TRUE(
      supervisor_.Start({.name = "a", .argv = {"/does/not/exist"}, .environment = {}}).ok());
  const absl::Status status = Await([] { return false; });
  EXPECT_THAT(std::string(status.message()), HasSubstr("/does/not/exist can't be executed"));
}

TEST_F(SupervisorTest, RestartsAKilledProcessWithTheNewArgumentsAndBacksOff) {
  const int index = Start("a", "echo first; exec sleep 1000");
  ASSERT_TRUE(AwaitLine("a", "first").ok());
  supervisor_.SetArguments(index, {"/bin/sh", "-c", "echo again; exec sleep 1000"});
  supervisor_.KeepAlive();
  const pid_t first = supervisor_.pid(index);
  kill(first, SIGKILL);
  ASSERT_TRUE(AwaitLine("a", "again").ok());
  EXPECT_NE(supervisor_.pid(index), first);
  EXPECT_EQ(supervisor_.num_restarts(index), 1);
  kill(supervisor_.pid(index), SIGKILL);
  ASSERT_TRUE(Await([&] { return Count("a", "again") == 2; }).ok());
  EXPECT_THAT(lines_["a"], Contains("ended (signal 9 (Killed)), restarting in 0"));
  EXPECT_THAT(lines_["a"], Contains("ended (signal 9 (Killed)), restarting in 200ms"));
}

TEST_F(SupervisorTest, StopsByTermAndThenByKill) {
  const int polite =
      Start("polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
  const int deaf = Start("deaf", "trap '' TERM; echo up; while :; do sleep 0.01; done");
  ASSERT_TRUE(AwaitLine("polite", "up").ok());
  ASSERT_TRUE(AwaitLine("deaf", "up").ok());
  supervisor_.KeepAlive();
  supervisor_.Stop({polite}, absl::Now() + kLimit);
  EXPECT_EQ(Count("polite", "bye"), 1);
  supervisor_.Stop({deaf}, absl::Now());
  EXPECT_EQ(supervisor_.pid(deaf), -1);
  EXPECT_EQ(supervisor_.num_restarts(polite), 0);
}

TEST_F(SupervisorTest, StopsAProcessThatWasSuspended) {
  const int index =
      Start("a", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
  ASSERT_TRUE(AwaitLine("a", "up").ok());
  kill(supervisor_.pid(index), SIGSTOP);
  supervisor_.Stop({index}, absl::Now() + kLimit);
  EXPECT_EQ(Count("a", "bye"), 1);
}

TEST_F(SupervisorTest, ASignalEndsTheWait) {
  kill(getpid(), SIGTERM);
  const absl::Status status = Await([] { return false; });
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_TRUE(supervisor_.stop_requested());
}

TEST_F(SupervisorTest, StartsChildrenWithUnblockedSignalsAndTheirEnvironment) {
  const auto index = supervisor_.Start(
      {.name = "a",
       .argv = {"/bin/sh", "-c",
                "grep SigBlk /proc/self/status; echo $CARAVAN_TEST; exec sleep 1000"},
       .environment = {"CARAVAN_TEST=yes"}});
  ASSERT_TRUE(index.ok());
  ASSERT_TRUE(AwaitLine("a", "yes").ok());
  EXPECT_THAT(lines_["a"], Contains("SigBlk:\t0000000000000000"));
}

// The supervisor dies without a chance to clean up: the kernel does.
TEST(ChildProcess, DoesNotOutliveAKilledParent) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    auto child = ChildProcess::Start({"/bin/sh", "-c", "exec sleep 1000"}, {});
    const pid_t pid = child.ok() ? child->pid() : -1;
    if (write(pipe_fds[1], &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
    while (true) pause();
  }
  pid_t grandchild = -1;
  ASSERT_EQ(read(pipe_fds[0], &grandchild, sizeof(grandchild)),
            static_cast<ssize_t>(sizeof(grandchild)));
  ASSERT_GT(grandchild, 0);
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  // It is nobody's child that we could wait for: its process entry goes away, or is a zombie.
  const absl::Time deadline = absl::Now() + kLimit;
  bool is_gone = false;
  while (!is_gone && absl::Now() < deadline) {
    FILE* stat = fopen(absl::StrCat("/proc/", grandchild, "/stat").c_str(), "r");
    char state = 'X';
    if (stat != nullptr) {
      if (fscanf(stat, "%*d %*s %c", &state) != 1) state = 'X';
      fclose(stat);
    }
    is_gone = state == 'X' || state == 'Z';
  }
  EXPECT_TRUE(is_gone);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

TEST(LastWords, PrefersTheLastErrorLine) {
  EXPECT_EQ(LastWords({"a E worker/0 bad model", "b I worker/0 bye E x", ""}),
            "a E worker/0 bad model");
  EXPECT_EQ(LastWords({"2026 E worker/0 failed status=\"NOT_FOUND: no \\\"x\\\" in y\" a=1"}),
            "no \"x\" in y");
  EXPECT_EQ(LastWords({"a E gateway failed error=\"two\\u000alines\""}), "two\nlines");
  EXPECT_EQ(LastWords({"only this", ""}), "only this");
  EXPECT_EQ(LastWords({}), "it said nothing");
}

}  // namespace
}  // namespace caravan
