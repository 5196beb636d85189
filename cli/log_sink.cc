#include "cli/log_sink.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace caravan {

LogSink::LogSink(To to, std::string folder, ProgressLine* progress)
    : to_(to), folder_(std::move(folder)), progress_(progress) {}

absl::Status LogSink::Open() {
  if (to_ != To::kFolder) return absl::OkStatus();
  if ((mkdir(folder_.c_str(), 0755) != 0 && errno != EEXIST) ||
      access(folder_.c_str(), W_OK) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("can't write logs in --log_dir=", folder_, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

void LogSink::Write(const std::string& name, const std::string& line) {
  if (to_ == To::kStandardError) {
    progress_->Clear();
    std::fprintf(stderr, "%-10s | %s\n", name.c_str(), line.c_str());
  } else if (to_ == To::kFolder) {
    std::ofstream& file = files_[name];
    if (!file.is_open()) {
      file.open(absl::StrCat(folder_, "/", absl::StrReplaceAll(name, {{" ", "-"}}), ".log"),
                std::ios::app);
    }
    file << line << std::endl;
  }
}

}  // namespace caravan
