// Where the lines of a cluster's processes go.
#pragma once

#include <fstream>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "cli/terminal.h"

namespace caravan {

class LogSink {
 public:
  enum class To { kNowhere, kStandardError, kFolder };

  // `progress` is cleared before a line is printed; outlives the sink.
  LogSink(To to, std::string folder, ProgressLine* progress);

  // Makes the folder. PERMISSION_DENIED with its name where that can't be done.
  absl::Status Open();

  // "worker 1   | line" on standard error, or the line in FOLDER/worker-1.log.
  void Write(const std::string& name, const std::string& line);

 private:
  To to_;
  std::string folder_;
  ProgressLine* progress_;
  std::map<std::string, std::ofstream> files_;
};

}  // namespace caravan
