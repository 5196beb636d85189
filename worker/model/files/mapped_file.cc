#include "worker/model/files/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <mutex>

#include "common/regular_file.h"
#include "common/status.h"

namespace caravan {
namespace {

// What a signal handler may read: no locks, no memory that moves.
struct Mapping {
  std::atomic<const std::byte*> begin = nullptr;  // nullptr: the entry is free
  size_t bytes = 0;
  std::array<char, 1024> path = {};
};

// Files beyond so many are mapped all the same, and not named.
std::array<Mapping, 1024> mappings;
std::mutex mappings_mutex;

void Register(const std::byte* begin, size_t bytes, const std::string& path) {
  const std::lock_guard<std::mutex> lock(mappings_mutex);
  for (Mapping& mapping : mappings) {
    if (mapping.begin.load() != nullptr) continue;
    mapping.bytes = bytes;
    mapping.path.fill('\0');
    path.copy(mapping.path.data(), mapping.path.size() - 1);
    mapping.begin.store(begin);
    return;
  }
}

void Unregister(const std::byte* begin) {
  const std::lock_guard<std::mutex> lock(mappings_mutex);
  for (Mapping& mapping : mappings) {
    if (mapping.begin.load() == begin) return mapping.begin.store(nullptr);
  }
}

void Print(std::string_view text) {
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // nobody is left to be told
}

void OnBusError(int number, siginfo_t* info, void* context) {
  const auto* address = static_cast<const std::byte*>(info->si_addr);
  for (const Mapping& mapping : mappings) {
    const std::byte* begin = mapping.begin.load();
    if (begin == nullptr || address < begin || address >= begin + mapping.bytes) continue;
    std::array<char, 20> digits = {};
    const std::to_chars_result end =
        std::to_chars(digits.data(), digits.data() + digits.size(), address - begin);
    Print("caravan: ");
    Print(mapping.path.data());
    Print(" changed while it was in use: it can't be read any more at byte ");
    Print({digits.data(), static_cast<size_t>(end.ptr - digits.data())});
    Print(
        " (was it cut short or written over?). Put it back and start again; to replace a model, "
        "write new files and rename them over the old ones.\n");
    _exit(1);
  }
  signal(number, SIG_DFL);
  raise(number);  // it comes when this handler has returned
}

}  // namespace

void ExplainLostPages() {
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  CARAVAN_CHECK(sigaction(SIGBUS, &action, nullptr) == 0);
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  struct stat info = {};
  CARAVAN_CHECK(fstat(fd, &info) == 0, std::strerror(errno));
  void* map = nullptr;
  if (info.st_size > 0) {
    map = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
  }
  const int map_error = errno;
  close(fd);
  if (map == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("can't map ", path, ": ", std::strerror(map_error)));
  }
  if (map != nullptr) {
    Register(static_cast<const std::byte*>(map), static_cast<size_t>(info.st_size), path);
  }
  return MappedFile(path, map, info.st_size);
}

MappedFile::~MappedFile() {
  if (map_ == nullptr) return;
  Unregister(data());
  munmap(map_, static_cast<size_t>(bytes_));
}

}  // namespace caravan
