#include "cli/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(200);
constexpr absl::Duration kLongestBackoff = absl::Seconds(10);
constexpr absl::Duration kHealthyLife = absl::Seconds(30);
constexpr absl::Duration kTick = absl::Milliseconds(20);
constexpr size_t kLinesKept = 20;

int BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
}

// The text of error="…" or status="…" in a log line, unescaped and without the status code before
// it; empty if there is none.
std::string QuotedField(const std::string& line) {
  for (const std::string key : {" error=\"", " status=\""}) {
    const size_t start = line.find(key);
    if (start == std::string::npos) continue;
    std::string text;
    for (size_t i = start + key.size(); i < line.size() && line[i] != '"'; ++i) {
      if (line.compare(i, 6, "\\u000a") == 0) {
        text += '\n';
        i += 5;
        continue;
      }
      if (line[i] == '\\' && i + 1 < line.size()) ++i;
      text += line[i];
    }
    const size_t code_end = text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
    if (code_end != std::string::npos && text.compare(code_end, 2, ": ") == 0) {
      text.erase(0, code_end + 2);
    }
    return text;
  }
  return "";
}

}  // namespace

Supervisor::Supervisor(OnLine on_line) : on_line_(std::move(on_line)), signal_fd_(BlockSignals()) {
  CARAVAN_CHECK(signal_fd_ >= 0, "signalfd failed");
}

Supervisor::~Supervisor() {
  processes_.clear();
  close(signal_fd_);
}

absl::StatusOr<int> Supervisor::Start(ProcessSpec spec) {
  Process process;
  ASSIGN_OR_RETURN(process.child, ChildProcess::Start(spec.argv, spec.environment));
  process.spec = std::move(spec);
  process.started_at = absl::Now();
  process.backoff = absl::ZeroDuration();
  processes_.push_back(std::move(process));
  return static_cast<int>(processes_.size()) - 1;
}

void Supervisor::KeepAlive() { keep_alive_ = true; }

void Supervisor::SetArguments(int index, std::vector<std::string> argv) {
  processes_[index].spec.argv = std::move(argv);
}

void Supervisor::Poll(absl::Duration timeout) {
  WaitForWork(timeout);
  ReadSignals();
  for (Process& process : processes_) {
    ForwardLines(&process);
    if (process.child.Reap()) HandleEnd(&process);
    if (process.restart_at <= absl::Now()) Restart(&process);
  }
}

absl::Status Supervisor::PollUntil(const std::function<bool()>& done, absl::Time deadline,
                                   const std::string& what) {
  while (true) {
    if (stop_requested()) return absl::CancelledError("stopped by a signal");
    RETURN_IF_ERROR(failure_);
    if (done()) return absl::OkStatus();
    if (absl::Now() > deadline) {
      return absl::DeadlineExceededError(absl::StrCat("waited too long for ", what));
    }
    Poll(kTick);
  }
}

void Supervisor::WaitForWork(absl::Duration timeout) {
  std::vector<pollfd> fds = {{.fd = signal_fd_, .events = POLLIN, .revents = 0}};
  absl::Time wake_at = absl::Now() + timeout;
  for (const Process& process : processes_) {
    if (process.child.output_fd() >= 0) {
      fds.push_back({.fd = process.child.output_fd(), .events = POLLIN, .revents = 0});
    }
    wake_at = std::min(wake_at, process.restart_at);
  }
  const int64_t wait_ms = absl::ToInt64Milliseconds(wake_at - absl::Now()) + 1;
  poll(fds.data(), fds.size(), static_cast<int>(std::clamp<int64_t>(wait_ms, 0, 60000)));
}

void Supervisor::ReadSignals() {
  signalfd_siginfo info;
  while (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGCHLD) ++num_stop_signals_;
  }
}

void Supervisor::ForwardLines(Process* process) {
  for (std::string& line : process->child.ReadLines()) {
    on_line_(process->spec.name, line);
    process->last_lines.push_back(std::move(line));
    if (process->last_lines.size() > kLinesKept) {
      process->last_lines.erase(process->last_lines.begin());
    }
  }
}

void Supervisor::HandleEnd(Process* process) {
  ForwardLines(process);
  const std::string how = DescribeWaitStatus(process->child.wait_status());
  if (process->stopping) return;
  if (!keep_alive_) {
    if (failure_.ok()) {
      failure_ = absl::FailedPreconditionError(
          absl::StrCat(process->spec.name, " ended (", how, "): ", LastWords(process->last_lines)));
    }
    return;
  }
  const absl::Time now = absl::Now();
  if (now - process->started_at >= kHealthyLife) process->backoff = absl::ZeroDuration();
  process->restart_at = now + process->backoff;
  on_line_(process->spec.name, absl::StrCat("ended (", how, "), restarting in ",
                                            absl::FormatDuration(process->backoff)));
  process->backoff = std::clamp(process->backoff * 2, kFirstBackoff, kLongestBackoff);
}

void Supervisor::Restart(Process* process) {
  process->restart_at = absl::InfiniteFuture();
  process->started_at = absl::Now();
  ++process->num_restarts;
  absl::StatusOr<ChildProcess> child =
      ChildProcess::Start(process->spec.argv, process->spec.environment);
  if (child.ok()) {
    process->child = *std::move(child);
    return;
  }
  on_line_(process->spec.name, std::string(child.status().message()));
  process->restart_at = absl::Now() + kLongestBackoff;
}

void Supervisor::Stop(const std::vector<int>& indices, absl::Time deadline) {
  const int signals_before = num_stop_signals_;
  for (const int index : indices) {
    processes_[index].stopping = true;
    processes_[index].restart_at = absl::InfiniteFuture();
    processes_[index].child.Signal(SIGTERM);
    processes_[index].child.Signal(SIGCONT);
  }
  const auto any_runs = [this, &indices] {
    return std::any_of(indices.begin(), indices.end(),
                       [this](int index) { return processes_[index].child.running(); });
  };
  while (any_runs()) {
    if (absl::Now() > deadline || num_stop_signals_ > signals_before) {
      for (const int index : indices) processes_[index].child.Signal(SIGKILL);
    }
    Poll(kTick);
  }
}

std::string LastWords(const std::vector<std::string>& lines) {
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (absl::StrContains(*line, "check failed")) return *line;
    // "TIME E SERVICE verb key=value …"
    const size_t level = line->find(' ');
    if (level == std::string::npos || line->compare(level, 3, " E ") != 0) continue;
    const std::string sentence = QuotedField(*line);
    return sentence.empty() ? *line : sentence;
  }
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (!line->empty()) return *line;
  }
  return "it said nothing";
}

}  // namespace caravan
