// Keeps the processes of a cluster alive on one host, and ends them in order.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/child_process.h"

namespace caravan {

struct ProcessSpec {
  std::string name;  // "gateway", "worker 0.1": prefixes its lines
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // "NAME=value", added to ours
};

// One thread owns it; construct it before any other thread is started, since it blocks the signals
// that it waits for (SIGTERM, SIGINT, SIGHUP, SIGCHLD) for the whole process. No child outlives it.
class Supervisor {
 public:
  // `on_line` gets each line that a child writes, and our own about deaths and restarts.
  using OnLine = std::function<void(const std::string& name, const std::string& line)>;
  explicit Supervisor(OnLine on_line);
  ~Supervisor();

  // Starts a process and returns its index. Until KeepAlive, an ended process stays ended and is a
  // failure(); after it, ended ones are restarted: at once, then after 0.2 s, 0.4 s, … 10 s, and at
  // once again after it has lived for 30 s.
  absl::StatusOr<int> Start(ProcessSpec spec);
  void KeepAlive();

  // What later lives of the process are started with.
  void SetArguments(int index, std::vector<std::string> argv);

  // Waits up to `timeout` for something to do, and does it: passes lines on, reaps, restarts.
  void Poll(absl::Duration timeout);

  // Polls until `done` or a stop signal (CANCELLED), a failure or the deadline
  // (DEADLINE_EXCEEDED, with `what`).
  absl::Status PollUntil(const std::function<bool()>& done, absl::Time deadline,
                         const std::string& what);

  // SIGTERM to these, then SIGKILL at the deadline or when a second stop signal arrives. Returns
  // when all have ended.
  void Stop(const std::vector<int>& indices, absl::Time deadline);

  bool stop_requested() const { return num_stop_signals_ > 0; }
  // Why a process ended before KeepAlive: its own last words. OK if none did.
  const absl::Status& failure() const { return failure_; }

  pid_t pid(int index) const { return processes_[index].child.pid(); }
  int num_restarts(int index) const { return processes_[index].num_restarts; }

 private:
  struct Process {
    ProcessSpec spec;
    ChildProcess child;
    std::vector<std::string> last_lines;
    absl::Time started_at;
    absl::Time restart_at = absl::InfiniteFuture();
    absl::Duration backoff;
    int num_restarts = 0;
    bool stopping = false;
  };

  void WaitForWork(absl::Duration timeout);
  void ReadSignals();
  void ForwardLines(Process* process);
  void HandleEnd(Process* process);
  void Restart(Process* process);

  OnLine on_line_;
  std::vector<Process> processes_;
  int signal_fd_ = -1;
  int num_stop_signals_ = 0;
  bool keep_alive_ = false;
  absl::Status failure_;
};

// Of the last lines that a process wrote, the sentence that says why it ended.
std::string LastWords(const std::vector<std::string>& lines);

}  // namespace caravan
