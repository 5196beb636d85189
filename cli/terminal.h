// What the CLI writes for people: sizes, progress, tables.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace caravan {

// "512 B", "1.5 MiB", "13.0 GiB".
std::string FormatBytes(uint64_t bytes);

// One line on standard error that is rewritten in place on a terminal. Elsewhere Update is silent,
// so that logs hold no half-drawn lines. One thread.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();  // Clear()

  // "LABEL [#####.....]  48 %  DETAIL"; `fraction` from 0 to 1.
  void Update(const std::string& label, double fraction, const std::string& detail);
  void Update(const std::string& text);
  void Clear();

 private:
  bool is_terminal_;
  bool shown_ = false;
};

// Columns padded to their widest cell, two spaces between; the first row is the heading.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// Writes all of `text` to standard output and flushes; false once that has failed.
bool WriteOut(const std::string& text);
// Why WriteOut has failed, if it has: DATA_LOSS with a sentence, or CANCELLED where a reader went
// away, who wants to hear nothing.
absl::Status OutputStatus();
// Once standard input has ended: DATA_LOSS with a sentence where it was an error (a folder, say)
// that ended it.
absl::Status InputStatus();

}  // namespace caravan
