#include "cli/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace caravan {
namespace {

std::atomic<int> first_output_error = 0;  // errno

// EBADF is what a stream gives that the process was started without.
std::string Reason(int error) { return error == EBADF ? "it is closed" : std::strerror(error); }

}  // namespace

std::string FormatBytes(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  auto value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return absl::StrFormat("%.1f %s", value, unit);
}

ProgressLine::ProgressLine() : is_terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() { Clear(); }

void ProgressLine::Update(const std::string& label, double fraction, const std::string& detail) {
  constexpr int kCells = 30;
  const int filled = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * kCells);
  Update(absl::StrFormat("%s [%s%s] %3.0f %%  %s", label, std::string(filled, '#'),
                         std::string(kCells - filled, '.'), fraction * 100, detail));
}

void ProgressLine::Update(const std::string& text) {
  if (!is_terminal_) return;
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
  std::fflush(stderr);
  shown_ = true;
}

void ProgressLine::Clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    if (row.size() > widths.size()) widths.resize(row.size());
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string table;
  for (const std::vector<std::string>& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    table += line + '\n';
  }
  return table;
}

bool WriteOut(const std::string& text) {
  if (first_output_error != 0) return false;
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
    return true;
  }
  first_output_error = errno;
  return false;
}

absl::Status OutputStatus() {
  if (first_output_error == 0) return absl::OkStatus();
  if (first_output_error == EPIPE) return absl::CancelledError("nobody reads the output");
  return absl::DataLossError(
      absl::StrCat("can't write to standard output: ", Reason(first_output_error)));
}

absl::Status InputStatus() {
  if (std::ferror(stdin) == 0) return absl::OkStatus();
  // By the number of the next error: the one that ended it may have been overwritten since.
  char byte = 0;
  const int error = read(STDIN_FILENO, &byte, 1) < 0 ? errno : EIO;
  return absl::DataLossError(absl::StrCat("can't read standard input: ", Reason(error)));
}

}  // namespace caravan
