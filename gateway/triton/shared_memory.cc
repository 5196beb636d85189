#include "gateway/triton/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace caravan {
namespace {

// Objects of our own processes: no client may write to them.
constexpr const char* kReservedPrefix = "caravan";

absl::Status CheckObject(const std::string& name, const std::string& key, int fd, uint64_t offset,
                         uint64_t byte_size) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("Unable to open shared memory region: '", name, "': ", std::strerror(errno)));
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  if (offset <= size && byte_size <= size - offset) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "failed to register shared memory region '", name, "': invalid args: offset ", offset,
      " and byte_size ", byte_size, " do not lie in the object '", key, "' of ", size, " bytes"));
}

}  // namespace

SystemSharedMemoryRegion::~SystemSharedMemoryRegion() { close(fd_); }

absl::Status SharedMemoryRegion::CheckRange(uint64_t offset, uint64_t byte_size) const {
  if (offset <= byte_size_ && byte_size <= byte_size_ - offset) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("Invalid offset + byte size for shared memory ",
                                                 "region: '", name_, "' has ", byte_size_,
                                                 " bytes, asked for ", byte_size, " at ", offset));
}

absl::StatusOr<std::string> SystemSharedMemoryRegion::Read(uint64_t offset,
                                                           uint64_t byte_size) const {
  RETURN_IF_ERROR(CheckRange(offset, byte_size));
  // The object was this large once; whether it still is shows before memory is taken for it.
  RETURN_IF_ERROR(CheckObject(name(), key_, fd_, offset_ + offset, byte_size));
  std::string data(byte_size, '\0');
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = pread(fd_, data.data() + done, data.size() - done,
                            static_cast<off_t>(offset_ + offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shared memory region '", name(), "' can't be read: it has shrunk"));
    }
    done += static_cast<size_t>(n);
  }
  return data;
}

absl::Status SystemSharedMemoryRegion::Write(uint64_t offset, std::string_view data) const {
  RETURN_IF_ERROR(CheckRange(offset, data.size()));
  RETURN_IF_ERROR(CheckObject(name(), key_, fd_, offset_ + offset, data.size()));
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = pwrite(fd_, data.data() + done, data.size() - done,
                             static_cast<off_t>(offset_ + offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return absl::InvalidArgumentError(absl::StrCat("shared memory region '", name(),
                                                     "' can't be written: ", std::strerror(errno)));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status SharedMemoryRegistry::CheckNew(const std::string& name, uint64_t byte_size) const {
  if (!enabled_) {
    return absl::UnimplementedError(
        "shared memory is off here; start the gateway with --triton_shared_memory");
  }
  if (name.empty()) return absl::InvalidArgumentError("shared memory region name is empty");
  if (name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("shared memory region name has ", name.size(),
                                                   " bytes; at most ", kMaxNameBytes,
                                                   " are allowed"));
  }
  if (regions_.contains(name)) {
    return absl::AlreadyExistsError(
        absl::StrCat("shared memory region '", name, "' already in manager"));
  }
  if (regions_.size() >= kMaxRegions) {
    return absl::UnavailableError(
        absl::StrCat("there are ", kMaxRegions, " shared memory regions already; unregister some"));
  }
  if (byte_size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("failed to register shared memory region '", name, "': byte_size is 0"));
  }
  return absl::OkStatus();
}

absl::Status SharedMemoryRegistry::Add(Region region) {
  RETURN_IF_ERROR(CheckNew(region->name(), region->byte_size()));
  regions_.emplace(region->name(), std::move(region));
  return absl::OkStatus();
}

absl::Status SharedMemoryRegistry::Register(const std::string& name, const std::string& key,
                                            uint64_t offset, uint64_t byte_size) {
  RETURN_IF_ERROR(CheckNew(name, byte_size));
  if (key.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the key of shared memory region '", name,
                                                   "' has ", key.size(), " bytes; at most ",
                                                   kMaxNameBytes, " are allowed"));
  }
  // shm_open takes any number of slashes for one.
  const std::string bare = key.substr(std::min(key.find_first_not_of('/'), key.size()));
  if (absl::StartsWith(bare, kReservedPrefix)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot register shared memory region '", name,
                                                   "' with reserved key '", key, "'"));
  }
  const int fd = shm_open(key.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat("Unable to open shared memory region: '", name,
                                                   "' (key '", key, "'): ", std::strerror(errno)));
  }
  auto region = std::make_shared<SystemSharedMemoryRegion>(name, key, offset, byte_size, fd);
  RETURN_IF_ERROR(CheckObject(name, key, fd, offset, byte_size));
  return Add(std::move(region));
}

void SharedMemoryRegistry::Unregister(SharedMemoryKind kind, const std::string& name) {
  std::erase_if(regions_, [&](const auto& entry) {
    return entry.second->kind() == kind && (name.empty() || entry.first == name);
  });
}

absl::StatusOr<std::vector<SharedMemoryRegistry::Region>> SharedMemoryRegistry::Status(
    SharedMemoryKind kind, const std::string& name) const {
  std::vector<Region> regions;
  for (const auto& [key, region] : regions_) {
    if (region->kind() == kind && (name.empty() || key == name)) regions.push_back(region);
  }
  if (regions.empty() && !name.empty()) {
    return absl::NotFoundError(absl::StrCat("Unable to find ",
                                            kind == SharedMemoryKind::kSystem ? "system" : "cuda",
                                            " shared memory region: '", name, "'"));
  }
  return regions;
}

absl::StatusOr<SharedMemoryRegistry::Region> SharedMemoryRegistry::Find(
    const std::string& name) const {
  const auto found = regions_.find(name);
  if (found != regions_.end()) return found->second;
  return absl::InvalidArgumentError(
      absl::StrCat("Unable to find shared memory region: '", name, "'"));
}

}  // namespace caravan
