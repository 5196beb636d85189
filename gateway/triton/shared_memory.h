// System shared memory that clients registered: inputs are read from it, outputs written to it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/triton/protocol/infer_message.h"

namespace caravan {

// One registered region. Never mapped: a client that shrinks its object would kill a process that
// has it mapped; reading and writing a file only fails.
class SharedMemoryRegion {
 public:
  // `fd` is the object's; closed with the region.
  SharedMemoryRegion(std::string name, std::string key, uint64_t offset, uint64_t byte_size, int fd)
      : name_(std::move(name)),
        key_(std::move(key)),
        offset_(offset),
        byte_size_(byte_size),
        fd_(fd) {}
  ~SharedMemoryRegion();
  SharedMemoryRegion(const SharedMemoryRegion&) = delete;
  SharedMemoryRegion& operator=(const SharedMemoryRegion&) = delete;

  const std::string& name() const { return name_; }
  const std::string& key() const { return key_; }
  uint64_t offset() const { return offset_; }
  uint64_t byte_size() const { return byte_size_; }

  // INVALID_ARGUMENT where the range is not inside the region, or the object has shrunk.
  absl::StatusOr<std::string> Read(uint64_t offset, uint64_t byte_size) const;
  absl::Status Write(uint64_t offset, std::string_view data) const;

 private:
  absl::Status CheckRange(uint64_t offset, uint64_t byte_size) const;

  const std::string name_;
  const std::string key_;
  const uint64_t offset_;
  const uint64_t byte_size_;
  const int fd_;
};

// Loop thread only. A region that a request uses stays until the request has ended, registered or
// not.
class SharedMemoryRegistry {
 public:
  using Region = std::shared_ptr<const SharedMemoryRegion>;

  // `enabled` false: Register answers UNIMPLEMENTED.
  explicit SharedMemoryRegistry(bool enabled) : enabled_(enabled) {}

  // ALREADY_EXISTS where the name is in use, INVALID_ARGUMENT where there is no such object, or it
  // is too small.
  absl::Status Register(const std::string& name, const std::string& key, uint64_t offset,
                        uint64_t byte_size);
  // Empty: all. An unknown name is no error.
  void Unregister(const std::string& name);
  // Empty: all. NOT_FOUND for an unknown name.
  absl::StatusOr<std::vector<Region>> Status(const std::string& name) const;
  // INVALID_ARGUMENT where there is none of the name.
  absl::StatusOr<Region> Find(const std::string& name) const;

 private:
  static constexpr size_t kMaxRegions = 4096;

  const bool enabled_;
  std::map<std::string, Region> regions_;
};

}  // namespace caravan
