// Files that users name: read whole, or not at all.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace caravan {

// Opens a file for reading; the caller closes it. NOT_FOUND where there is none, INVALID_ARGUMENT
// where it is not a regular file: at once for a FIFO too, which would wait for a writer.
absl::StatusOr<int> OpenRegularFile(const std::string& path);

// All of its bytes. INVALID_ARGUMENT where it has more than `max_bytes`.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path, int64_t max_bytes);

}  // namespace caravan
