// Files that users name: read whole, or not at all.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace caravan {

// Whether something lies there. INVALID_ARGUMENT for a symbolic link that leads nowhere or in a
// circle: whoever made it meant a file. PERMISSION_DENIED where it can't be told.
absl::StatusOr<bool> PathExists(const std::string& path);

// Whether a regular file can be written at `path`, which may be absent: else INVALID_ARGUMENT or
// PERMISSION_DENIED say why. To write into a FIFO blocks until somebody reads.
absl::Status CheckWritableFile(const std::string& path);

// Opens a file for reading; the caller closes it. NOT_FOUND where there is none, INVALID_ARGUMENT
// where it is not a regular file (at once for a FIFO too, which would wait for a writer) or a link
// as above.
absl::StatusOr<int> OpenRegularFile(const std::string& path);

// All of its bytes. INVALID_ARGUMENT where it has more than `max_bytes`.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path, int64_t max_bytes);

}  // namespace caravan
