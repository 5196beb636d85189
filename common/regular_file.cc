#include "common/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>

#include "common/status.h"

namespace caravan {
namespace {

absl::Status NotRegular(const std::string& path) {
  return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
}

bool IsAbsent(int error) { return error == ENOENT || error == ENOTDIR; }

// What is wrong with the symbolic link at `path`, if one is there and can't be followed: `error` is
// what came of it.
absl::Status CheckLink(const std::string& path, int error) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  if (length < 0 || (!IsAbsent(error) && error != ELOOP)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      path, " is a symbolic link to ", std::string(target, static_cast<size_t>(length)),
      error == ELOOP ? ", which leads in a circle" : ", which leads nowhere"));
}

}  // namespace

absl::StatusOr<bool> PathExists(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0) return true;
  const int error = errno;
  RETURN_IF_ERROR(CheckLink(path, error));
  if (IsAbsent(error)) return false;
  return absl::PermissionDeniedError(
      absl::StrCat("can't examine ", path, ": ", std::strerror(error)));
}

absl::Status CheckWritableFile(const std::string& path) {
  ASSIGN_OR_RETURN(const bool exists, PathExists(path));
  struct stat info = {};
  if (exists && stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) return NotRegular(path);
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  if (access(exists ? path.c_str() : folder.c_str(), W_OK) == 0) return absl::OkStatus();
  const int error = errno;
  const std::string what =
      exists ? absl::StrCat("can't write ", path) : absl::StrCat("can't make a file in ", folder);
  return absl::PermissionDeniedError(absl::StrCat(what, ": ", std::strerror(error)));
}

absl::StatusOr<int> OpenRegularFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENXIO) return NotRegular(path);  // a socket
    const int error = errno;
    RETURN_IF_ERROR(CheckLink(path, error));
    const std::string message = absl::StrCat("can't open ", path, ": ", std::strerror(error));
    return IsAbsent(error) ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
  }
  struct stat info = {};
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) return fd;
  close(fd);
  return NotRegular(path);
}

absl::StatusOr<std::string> ReadRegularFile(const std::string& path, int64_t max_bytes) {
  ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  std::FILE* file = fdopen(fd, "rb");
  CARAVAN_CHECK(file != nullptr, std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  size_t n = 0;
  while ((n = std::fread(buffer, 1, sizeof(buffer), file)) > 0) {
    text.append(buffer, n);
    if (static_cast<int64_t>(text.size()) > max_bytes) break;
  }
  const bool failed = std::ferror(file) != 0;
  std::fclose(file);
  if (failed) return absl::UnavailableError(absl::StrCat("can't read ", path));
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is larger than ", max_bytes, " bytes, the limit for such a file"));
  }
  return text;
}

}  // namespace caravan
