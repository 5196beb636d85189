#include "common/shutdown_signal.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "common/status.h"

namespace caravan {
namespace {

void Raise(int event_fd) {
  const uint64_t one = 1;
  CARAVAN_CHECK(write(event_fd, &one, sizeof(one)) == static_cast<ssize_t>(sizeof(one)));
}

// Waits for a signal or the event; the signal's number, or 0 for the event.
int WaitFor(int signal_fd, int event_fd) {
  pollfd fds[2] = {{signal_fd, POLLIN, 0}, {event_fd, POLLIN, 0}};
  while (poll(fds, 2, -1) < 0) CARAVAN_CHECK(errno == EINTR, "poll failed with errno ", errno);
  if ((fds[0].revents & POLLIN) == 0) return 0;
  signalfd_siginfo info;
  CARAVAN_CHECK(read(signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info)));
  return static_cast<int>(info.ssi_signo);
}

}  // namespace

ShutdownSignal::ShutdownSignal() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  CARAVAN_CHECK(pthread_sigmask(SIG_BLOCK, &signals, nullptr) == 0);
  signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC);
  event_fd_ = eventfd(0, EFD_CLOEXEC);
  exit_fd_ = eventfd(0, EFD_CLOEXEC);
  CARAVAN_CHECK(signal_fd_ >= 0 && event_fd_ >= 0 && exit_fd_ >= 0, "no file descriptors left");
}

ShutdownSignal::~ShutdownSignal() {
  if (exit_thread_.joinable()) {
    Raise(exit_fd_);
    exit_thread_.join();
  }
  close(signal_fd_);
  close(event_fd_);
  close(exit_fd_);
}

int ShutdownSignal::Wait() { return WaitFor(signal_fd_, event_fd_); }

void ShutdownSignal::Trigger() { Raise(event_fd_); }

void ShutdownSignal::ExitOnNext() {
  if (exit_thread_.joinable()) return;
  exit_thread_ = std::thread([this] {
    if (WaitFor(signal_fd_, exit_fd_) != 0) _exit(130);
  });
}

}  // namespace caravan
