// The commands of the `caravan` program. Each takes the words after its name, writes its results to
// standard output, and returns the exit code: 0, 1 after an error (said in a sentence on standard
// error), 2 after wrong usage.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace caravan {

int UpCommand(const std::vector<std::string>& words);
int DemoCommand(const std::vector<std::string>& words);
int GenerateCommand(const std::vector<std::string>& words);
int ChatCommand(const std::vector<std::string>& words);
int StatusCommand(const std::vector<std::string>& words);
int BenchCommand(const std::vector<std::string>& words);

// Says what went wrong on standard error, for someone who has just called `caravan COMMAND`, also
// where standard output took no more; returns the exit code.
int Report(const std::string& command, const absl::Status& outcome);

}  // namespace caravan
