#include "cli/preflight.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/regular_file.h"
#include "common/status.h"

namespace caravan {
namespace {

bool IsReadable(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

bool IsFolder(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;
};

// Of a name, an IPv4 address, or an IPv6 address in brackets.
absl::StatusOr<SocketAddress> Resolve(const std::string& host, int port) {
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  const std::string bare = bracketed ? host.substr(1, host.size() - 2) : host;
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(bare.c_str(), absl::StrCat(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::NotFoundError(
        absl::StrCat("--host is '", host, "', which is no address: ", gai_strerror(error)));
  }
  SocketAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

// Listens for as long as it lives, if it can.
class Listener {
 public:
  explicit Listener(const SocketAddress& address)
      : fd_(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd_, reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0 ||
        listen(fd_, 1) != 0) {
      error_ = errno;
    }
  }
  ~Listener() { close(fd_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int error() const { return error_; }  // errno; 0: it listens

 private:
  const int fd_;
  int error_ = 0;
};

}  // namespace

absl::Status CheckModelFolder(const std::string& model) {
  if (model.empty()) {
    return absl::InvalidArgumentError(
        "which model? --model takes a folder in the layout of Hugging Face, such as models/demo");
  }
  ASSIGN_OR_RETURN(const bool exists, PathExists(model));
  if (!exists) {
    return absl::NotFoundError(
        absl::StrCat("there is no model folder ", model, ": ", std::strerror(ENOENT)));
  }
  if (!IsFolder(model)) {
    return absl::InvalidArgumentError(absl::StrCat(
        model, " is a file; --model takes the folder that holds config.json and the weights"));
  }
  for (const char* name : {"/config.json", "/config.ini"}) {
    RETURN_IF_ERROR(PathExists(model + name).status());
    if (IsReadable(model + name)) return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat(
      model, " is no model folder: it has no config.json that can be read (", std::strerror(errno),
      "), nor the config.ini of a FasterTransformer checkpoint"));
}

absl::Status CheckTokenizerFolder(const std::string& tokenizer, const std::string& model) {
  if (!tokenizer.empty()) {
    RETURN_IF_ERROR(PathExists(tokenizer).status());
    if (IsFolder(tokenizer)) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("there is no tokenizer folder ", tokenizer));
  }
  if (IsReadable(model + "/config.json") || IsReadable(model + "/tokenizer.model")) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(model,
                   " is a FasterTransformer checkpoint, which holds no tokenizer; give its "
                   "folder with --tokenizer, such as the Hugging Face folder that was "
                   "converted"));
}

absl::Status CheckPrograms(const std::string& folder) {
  for (const char* name : {"caravan_gateway", "caravan_tokenizer", "caravan_worker"}) {
    const std::string path = absl::StrCat(folder, "/", name);
    if (access(path.c_str(), X_OK) != 0) {
      return absl::NotFoundError(absl::StrCat(
          path,
          " is missing: the programs of Caravan must lie in one folder; ./caravan build "
          "makes them"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHost(const std::string& host) {
  if (absl::StrContains(host, ":") && !absl::StartsWith(host, "[")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--host is '", host, "'; an IPv6 address is written in brackets: [", host, "]"));
  }
  ASSIGN_OR_RETURN(const SocketAddress address, Resolve(host, 0));
  const Listener listener(address);
  if (listener.error() == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("can't listen on ", host, ": ", std::strerror(listener.error()),
                   "; give an address of this host with --host, or 0.0.0.0 for all that it has"));
}

absl::Status CheckPortsAreFree(const std::vector<PortToCheck>& ports) {
  std::vector<std::unique_ptr<Listener>> listeners;  // all at once, so that equal ones are found
  for (const PortToCheck& check : ports) {
    if (check.port < 0 || check.port > 65535) {
      return absl::InvalidArgumentError(
          absl::StrCat(check.flag, " is ", check.port, "; a port is a number from 0 to 65535"));
    }
    if (check.port == 0) continue;
    ASSIGN_OR_RETURN(const SocketAddress address, Resolve(check.host, check.port));
    listeners.push_back(std::make_unique<Listener>(address));
    const int error = listeners.back()->error();
    if (error == 0) continue;
    if (error != EADDRINUSE) {
      return absl::UnavailableError(absl::StrCat("can't listen on ", check.host, ":", check.port,
                                                 " (", check.flag, "): ", std::strerror(error)));
    }
    for (const PortToCheck& other : ports) {
      if (&other == &check) break;
      if (other.port != check.port) continue;
      return absl::InvalidArgumentError(absl::StrCat(check.flag, " is ", check.port, ", and so is ",
                                                     other.flag,
                                                     "; each needs its own (0 takes a free one)"));
    }
    return absl::UnavailableError(absl::StrCat("port ", check.port, " on ", check.host,
                                               " is in use by another program; choose another "
                                               "with ",
                                               check.flag, " (0 takes a free one)"));
  }
  return absl::OkStatus();
}

std::string OwnProgramFolder() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  const std::string program(path, length > 0 ? static_cast<size_t>(length) : 0);
  return program.substr(0, program.rfind('/'));
}

}  // namespace caravan
