// How a process that took free ports tells the one that started it which.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace caravan {

// Writes a line `name=port` for each, e.g. {{"grpc", 50052}, {"metrics", 9100}}. Whoever looks sees
// no file or all of it. UNAVAILABLE names the path where it can't be written.
absl::Status WritePortFile(const std::string& path,
                           const std::vector<std::pair<std::string, int>>& ports);

}  // namespace caravan
