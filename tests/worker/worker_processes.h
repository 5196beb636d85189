// Real caravan_worker processes on loopback.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "kernels/device/cuda_stream.h"

namespace caravan {

class WorkerProcess {
 public:
  // `folder` keeps its port file and log, named after `name`; `environment` ("NAME=value") goes
  // before ours.
  WorkerProcess(const std::string& folder, const std::string& name,
                const std::vector<std::string>& flags, std::vector<std::string> environment = {})
      : port_file_(folder + "/" + name + ".ports"), log_file_(folder + "/" + name + ".log") {
    std::filesystem::remove(port_file_);
    const auto self = std::filesystem::read_symlink("/proc/self/exe");
    std::vector<std::string> arguments = {self.parent_path() / "caravan_worker",
                                          "--port_file=" + port_file_};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::vector<char*> variables;
    variables.reserve(environment.size() + 1);
    for (std::string& variable : environment) variables.push_back(variable.data());
    for (char** ours = environ; *ours != nullptr; ++ours) {
      const std::string_view variable = *ours;
      const std::string_view name = variable.substr(0, variable.find('=') + 1);
      if (std::none_of(environment.begin(), environment.end(),
                       [&](const std::string& given) { return given.starts_with(name); })) {
        variables.push_back(*ours);
      }
    }
    variables.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_file_.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CARAVAN_CHECK(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), variables.data()) ==
                  0);
    posix_spawn_file_actions_destroy(&actions);
  }
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;
  ~WorkerProcess() {
    if (pid_ == 0) return;
    Signal(SIGKILL);
    Join();
  }

  pid_t pid() const { return pid_; }
  void Signal(int number) const { kill(pid_, number); }

  // Waits for the end: the exit code, or minus the signal that ended it.
  int Join() {
    int status = 0;
    CARAVAN_CHECK(waitpid(pid_, &status, 0) == pid_);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  // Once it listens; fails the test after 20 s.
  std::string Address() const {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (absl::Now() < deadline) {
      std::ifstream file(port_file_);
      std::string line;
      if (std::getline(file, line)) return "127.0.0.1:" + line.substr(line.find('=') + 1);
      absl::SleepFor(absl::Milliseconds(1));  // between looks at the other process
    }
    ADD_FAILURE() << "the worker does not listen:\n" << Log();
    return "127.0.0.1:1";
  }

  std::string Log() const {
    std::ifstream file(log_file_);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  const std::string port_file_;
  const std::string log_file_;
  pid_t pid_ = 0;
};

// Where the replicas of these tests run: CARAVAN_TEST_DEVICE, by default the CPU, which every
// machine has enough of.
inline std::string TestDevice() {
  const char* device = std::getenv("CARAVAN_TEST_DEVICE");
  return device != nullptr ? device : "cpu";
}

// The collectives that `auto` does not choose for the ranks of one host.
inline std::string OtherCollectives() { return TestDevice() == "cuda" ? "nccl" : "gloo"; }

// A replica of the demo model. On CUDA its ranks share GPUs where there are too few of them.
class WorkerProcesses {
 public:
  explicit WorkerProcesses(int tensor_parallel, std::vector<std::string> flags = {})
      : flags_(std::move(flags)) {
    char folder[] = "/tmp/caravan-worker-test-XXXXXX";
    CARAVAN_CHECK(mkdtemp(folder) != nullptr);
    folder_ = folder;
    flags_.push_back(absl::StrCat("--tensor_parallel=", tensor_parallel));
    flags_.push_back("--model=" CARAVAN_SOURCE_DIR "/models/demo");
    flags_.push_back("--model_name=model");
    flags_.push_back("--device=" + TestDevice());
    flags_.push_back("--kv_cache_bytes=67108864");
    std::string problem;
    if (TestDevice() == "cuda") num_gpus_ = static_cast<int>(FindCudaDevices(&problem).size());
    ranks_.resize(tensor_parallel);
    for (int rank = 0; rank < tensor_parallel; ++rank) Start(rank);
  }
  ~WorkerProcesses() {
    if (::testing::Test::HasFailure()) {
      for (const auto& rank : ranks_) ADD_FAILURE() << rank->Log();
    }
    ranks_.clear();
    std::filesystem::remove_all(folder_);
  }

  // (Re)starts a rank; rank 0 at the address that it had.
  void Start(int rank) {
    ranks_[rank] = nullptr;
    std::vector<std::string> flags = flags_;
    flags.push_back(absl::StrCat("--rank=", rank));
    flags.push_back("--listen_address=" +
                    (rank == 0 && !leader_.empty() ? leader_ : "127.0.0.1:0"));
    if (rank > 0) flags.push_back("--leader_address=" + leader_);
    std::vector<std::string> environment;
    if (num_gpus_ > 0) flags.push_back(absl::StrCat("--gpu=", rank % num_gpus_));
    // NCCL takes two ranks on one GPU of a host for a mistake.
    if (num_gpus_ > 0) environment.push_back(absl::StrCat("NCCL_HOSTID=", rank / num_gpus_));
    ranks_[rank] = std::make_unique<WorkerProcess>(folder_, absl::StrCat("rank", rank), flags,
                                                   std::move(environment));
    if (rank == 0) leader_ = ranks_[0]->Address();
  }

  WorkerProcess& rank(int rank) { return *ranks_[rank]; }
  const std::string& leader() const { return leader_; }

 private:
  std::string folder_;
  int num_gpus_ = 0;  // 0 where the ranks are on the CPU
  std::vector<std::string> flags_;
  std::string leader_;
  std::vector<std::unique_ptr<WorkerProcess>> ranks_;
};

}  // namespace caravan
