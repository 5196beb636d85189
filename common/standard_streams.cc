#include "common/standard_streams.h"

#include <fcntl.h>
#include <unistd.h>

namespace caravan {

void HoldStandardStreams() {
  const struct {
    int fd;
    int flags;  // the wrong way round, so that its use fails as it would have
  } streams[] = {{STDIN_FILENO, O_WRONLY}, {STDOUT_FILENO, O_RDONLY}, {STDERR_FILENO, O_WRONLY}};
  for (const auto& stream : streams) {
    // What was inherited does not close on exec. gRPC tries an eventfd before main, and forgets it
    // where it has got the number of a standard input that was closed.
    const int state = fcntl(stream.fd, F_GETFD);
    if (state >= 0 && (state & FD_CLOEXEC) == 0) continue;
    const int fd = open("/dev/null", stream.flags);
    if (fd < 0 || fd == stream.fd) continue;
    dup2(fd, stream.fd);
    close(fd);
  }
}

}  // namespace caravan
