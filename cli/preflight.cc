#include "cli/preflight.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

bool IsReadable(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

}  // namespace

absl::Status CheckModelFolder(const std::string& model) {
  if (model.empty()) {
    return absl::InvalidArgumentError(
        "which model? --model takes a folder in the layout of Hugging Face, such as models/demo");
  }
  struct stat info {};
  if (stat(model.c_str(), &info) != 0) {
    return absl::NotFoundError(
        absl::StrCat("there is no model folder ", model, ": ", std::strerror(errno)));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        model, " is a file; --model takes the folder that holds config.json and the weights"));
  }
  if (IsReadable(model + "/config.json") || IsReadable(model + "/config.ini")) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat(
      model, " is no model folder: it has no config.json that can be read (", std::strerror(errno),
      "), nor the config.ini of a FasterTransformer checkpoint"));
}

absl::Status CheckTokenizerFolder(const std::string& tokenizer, const std::string& model) {
  struct stat info {};
  if (!tokenizer.empty()) {
    if (stat(tokenizer.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
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

absl::Status CheckPortIsFree(const std::string& flag, const std::string& host, int port) {
  if (port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is ", port, "; a port is a number from 0 to 65535"));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  // Names and IPv6 are left to the server itself.
  if (port == 0 || inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) {
    return absl::OkStatus();
  }
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const int failed = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
                     listen(fd, 1) != 0;
  const int error = errno;
  close(fd);
  if (!failed) return absl::OkStatus();
  if (error == EADDRINUSE) {
    return absl::UnavailableError(absl::StrCat(
        "port ", port, " on ", host, " is in use by another program; choose another with ", flag,
        " (0 takes a free one)"));
  }
  return absl::UnavailableError(
      absl::StrCat("can't listen on ", host, ":", port, " (", flag, "): ", std::strerror(error)));
}

std::string OwnProgramFolder() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  const std::string program(path, length > 0 ? static_cast<size_t>(length) : 0);
  return program.substr(0, program.rfind('/'));
}

}  // namespace caravan
