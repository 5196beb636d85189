// A child process whose output comes through a pipe and that can't outlive us.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace caravan {

class ChildProcess {
 public:
  // Starts argv[0] (a path) with our environment plus `environment` ("NAME=value"), standard input
  // empty, output and errors in one pipe, signals unblocked, in a process group of its own (so that
  // Ctrl-C on the terminal reaches only us, who then stop it in order). The kernel kills it when
  // the thread that called Start ends: call it from one that lives as long as the process.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& argv,
                                            const std::vector<std::string>& environment);
  ChildProcess() = default;
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // kills it if it still runs, and waits for it

  pid_t pid() const { return pid_; }
  bool running() const { return pid_ > 0; }
  // The reading end of its output, non-blocking; -1 once closed.
  int output_fd() const { return output_fd_; }

  void Signal(int signal_number) const;

  // True once when it has ended: `wait_status()` is then waitpid's. Does not block.
  bool Reap();
  int wait_status() const { return wait_status_; }

  // New lines of output, without their ends; the rest of the last one when the pipe is closed.
  std::vector<std::string> ReadLines();

 private:
  pid_t pid_ = -1;
  int output_fd_ = -1;
  int wait_status_ = 0;
  std::string partial_line_;
};

// "exit code 1", "signal 9 (Killed)".
std::string DescribeWaitStatus(int wait_status);

}  // namespace caravan
