// How a process of Caravan is told to stop.
#pragma once

#include <thread>

namespace caravan {

// Blocks SIGTERM, SIGINT (and ignores SIGPIPE) for the process, so that one thread can wait for
// them. Construct it in main before any thread is started.
class ShutdownSignal {
 public:
  ShutdownSignal();
  ~ShutdownSignal();

  // Blocks until a signal or Trigger; returns the signal's number, 0 for Trigger.
  int Wait();
  // From any thread: Wait returns.
  void Trigger();
  // A second signal ends the process at once with exit code 130.
  void ExitOnNext();

 private:
  int event_fd_ = -1;
  int signal_fd_ = -1;
  std::thread exit_thread_;
  int exit_fd_ = -1;
};

}  // namespace caravan
