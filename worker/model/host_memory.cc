#include "worker/model/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "common/status.h"

namespace caravan {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
constexpr int64_t kHugePage = 2 << 20;

int64_t MemAvailable() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kilobytes = 0;
  std::string unit;
  while (meminfo >> key >> kilobytes) {
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") return kilobytes * 1024;
  }
  return kUnknown;
}

int64_t ReadNumber(const std::string& path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : kUnknown;  // "max" is no number
}

// What the control group still allows; its page cache counts as used but can be dropped.
int64_t ControlGroupAvailable() {
  int64_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  int64_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  std::string stat = "/sys/fs/cgroup/memory.stat";
  if (limit == kUnknown) {
    limit = ReadNumber("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    used = ReadNumber("/sys/fs/cgroup/memory/memory.usage_in_bytes");
    stat = "/sys/fs/cgroup/memory/memory.stat";
  }
  if (limit == kUnknown || used == kUnknown) return kUnknown;
  std::ifstream file(stat);
  std::string key;
  int64_t value = 0;
  while (file >> key >> value) {
    if (key == "inactive_file" || key == "active_file") used -= value;
  }
  return std::max<int64_t>(limit - std::max<int64_t>(used, 0), 0);
}

}  // namespace

absl::StatusOr<HostBuffer> HostBuffer::Allocate(int64_t bytes, std::string_view what) {
  if (bytes <= 0) return HostBuffer();
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("can't allocate ", BytesText(bytes), " for ",
                                                     std::string(what), ": ",
                                                     std::strerror(errno)));
  }
  // Advice only: fewer TLB misses where huge pages are to be had.
  if (bytes >= kHugePage) madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return HostBuffer(data, bytes);
}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

int64_t AvailableHostMemory() { return std::min(MemAvailable(), ControlGroupAvailable()); }

absl::Status CheckHostMemory(int64_t bytes, std::string_view what, std::string_view remedy) {
  const int64_t available = AvailableHostMemory();
  if (bytes <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(std::string(what), " need ", BytesText(bytes), " of memory (", bytes,
                   " bytes), ", BytesText(available), " are available; ", std::string(remedy)));
}

std::string BytesText(int64_t bytes) {
  const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(units)) {
    value /= 1024;
    ++unit;
  }
  char text[40];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text;
}

}  // namespace caravan
