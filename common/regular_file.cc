#include "common/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "common/status.h"

namespace caravan {
namespace {

absl::Status NotRegular(const std::string& path) {
  return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
}

}  // namespace

absl::StatusOr<int> OpenRegularFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENXIO) return NotRegular(path);  // a socket
    const std::string message = absl::StrCat("can't open ", path, ": ", std::strerror(errno));
    const bool absent = errno == ENOENT || errno == ENOTDIR;
    return absent ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
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
