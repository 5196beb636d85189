#include "cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

constexpr int kExitNotStarted = 127;

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment(const std::vector<std::string>& additions) {
  std::vector<std::string> all = additions;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('=') + 1);
    bool replaced = false;
    for (const std::string& addition : additions) replaced |= addition.rfind(name, 0) == 0;
    if (!replaced) all.push_back(text);
  }
  return all;
}

// In the child, after fork in a process with threads: only async-signal-safe calls.
[[noreturn]] void Become(pid_t parent, int output, char* const* argv, char* const* environment) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExitNotStarted);  // it died before the line above
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  const int null_fd = open("/dev/null", O_RDONLY);
  dup2(null_fd, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  execve(argv[0], argv, environment);
  constexpr char kMessage[] = " can't be executed\n";
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, argv[0], std::strlen(argv[0]));
  written = write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
  _exit(kExitNotStarted);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                                 const std::vector<std::string>& environment) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("can't make a pipe: ", std::strerror(errno)));
  }
  const std::vector<std::string> full_environment = Environment(environment);
  const std::vector<char*> argv_pointers = Pointers(argv);
  const std::vector<char*> environment_pointers = Pointers(full_environment);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) Become(parent, pipe_fds[1], argv_pointers.data(), environment_pointers.data());
  close(pipe_fds[1]);
  if (pid < 0) {
    close(pipe_fds[0]);
    return absl::ResourceExhaustedError(
        absl::StrCat("can't start ", argv[0], ": ", std::strerror(errno)));
  }
  fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
  ChildProcess child;
  child.pid_ = pid;
  child.output_fd_ = pipe_fds[0];
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept { *this = std::move(other); }

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(output_fd_, other.output_fd_);
  std::swap(wait_status_, other.wait_status_);
  std::swap(partial_line_, other.partial_line_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (running()) {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (output_fd_ >= 0) close(output_fd_);
}

void ChildProcess::Signal(int signal_number) const {
  if (running()) kill(pid_, signal_number);
}

bool ChildProcess::Reap() {
  if (!running() || waitpid(pid_, &wait_status_, WNOHANG) != pid_) return false;
  pid_ = -1;
  return true;
}

std::vector<std::string> ChildProcess::ReadLines() {
  std::vector<std::string> lines;
  char buffer[16384];
  while (output_fd_ >= 0) {
    const ssize_t count = read(output_fd_, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count <= 0) {
      close(output_fd_);
      output_fd_ = -1;
      if (!partial_line_.empty()) lines.push_back(std::exchange(partial_line_, ""));
      break;
    }
    partial_line_.append(buffer, static_cast<size_t>(count));
    size_t start = 0;
    for (size_t end; (end = partial_line_.find('\n', start)) != std::string::npos;
         start = end + 1) {
      lines.push_back(partial_line_.substr(start, end - start));
    }
    partial_line_.erase(0, start);
  }
  return lines;
}

std::string DescribeWaitStatus(int wait_status) {
  if (WIFEXITED(wait_status)) return absl::StrCat("exit code ", WEXITSTATUS(wait_status));
  const int signal_number = WTERMSIG(wait_status);
  return absl::StrCat("signal ", signal_number, " (", strsignal(signal_number), ")");
}

}  // namespace caravan
