// Shared memory that clients registered: inputs are read from it, outputs written to it.
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

enum class SharedMemoryKind : uint8_t { kSystem, kCuda };

// One registered region.
class SharedMemoryRegion {
 public:
  virtual ~SharedMemoryRegion() = default;
  SharedMemoryRegion(const SharedMemoryRegion&) = delete;
  SharedMemoryRegion& operator=(const SharedMemoryRegion&) = delete;

  virtual SharedMemoryKind kind() const = 0;
  const std::string& name() const { return name_; }
  uint64_t byte_size() const { return byte_size_; }

  // INVALID_ARGUMENT where the range is not inside the region, or the memory behind it has gone.
  virtual absl::StatusOr<std::string> Read(uint64_t offset, uint64_t byte_size) const = 0;
  virtual absl::Status Write(uint64_t offset, std::string_view data) const = 0;
  // The first of these alone; INVALID_ARGUMENT names the region.
  absl::Status CheckRange(uint64_t offset, uint64_t byte_size) const;

 protected:
  SharedMemoryRegion(std::string name, uint64_t byte_size)
      : name_(std::move(name)), byte_size_(byte_size) {}

 private:
  const std::string name_;
  const uint64_t byte_size_;
};

// Of the host. Never mapped: a client that shrinks its object would kill a process that has it
// mapped; reading and writing a file only fails.
class SystemSharedMemoryRegion final : public SharedMemoryRegion {
 public:
  // `fd` is the object's; closed with the region.
  SystemSharedMemoryRegion(std::string name, std::string key, uint64_t offset, uint64_t byte_size,
                           int fd)
      : SharedMemoryRegion(std::move(name), byte_size),
        key_(std::move(key)),
        offset_(offset),
        fd_(fd) {}
  ~SystemSharedMemoryRegion() override;

  SharedMemoryKind kind() const override { return SharedMemoryKind::kSystem; }
  const std::string& key() const { return key_; }
  uint64_t offset() const { return offset_; }

  absl::StatusOr<std::string> Read(uint64_t offset, uint64_t byte_size) const override;
  absl::Status Write(uint64_t offset, std::string_view data) const override;

 private:
  const std::string key_;
  const uint64_t offset_;
  const int fd_;
};

// Loop thread only. A region that a request uses stays until the request has ended, registered or
// not.
class SharedMemoryRegistry {
 public:
  using Region = std::shared_ptr<const SharedMemoryRegion>;

  // `enabled` false: Register answers UNIMPLEMENTED.
  explicit SharedMemoryRegistry(bool enabled) : enabled_(enabled) {}

  // Of the host's: ALREADY_EXISTS where the name is in use, whatever kind has it, INVALID_ARGUMENT
  // where there is no such object, or it is too small.
  absl::Status Register(const std::string& name, const std::string& key, uint64_t offset,
                        uint64_t byte_size);
  // A region of another kind. The same errors.
  absl::Status Add(Region region);
  // Whether a region of this name and size can be added. UNIMPLEMENTED where it is off.
  absl::Status CheckNew(const std::string& name, uint64_t byte_size) const;
  // Empty: all of the kind. An unknown name is no error.
  void Unregister(SharedMemoryKind kind, const std::string& name);
  // Empty: all of the kind. NOT_FOUND for an unknown name.
  absl::StatusOr<std::vector<Region>> Status(SharedMemoryKind kind, const std::string& name) const;
  // The same as the class of that kind.
  template <typename OfKind>
  absl::StatusOr<std::vector<std::shared_ptr<const OfKind>>> Status(SharedMemoryKind kind,
                                                                    const std::string& name) const {
    const absl::StatusOr<std::vector<Region>> found = Status(kind, name);
    if (!found.ok()) return found.status();
    std::vector<std::shared_ptr<const OfKind>> regions;
    for (const Region& region : *found) {
      regions.push_back(std::static_pointer_cast<const OfKind>(region));
    }
    return regions;
  }
  // INVALID_ARGUMENT where there is none of the name.
  absl::StatusOr<Region> Find(const std::string& name) const;

 private:
  static constexpr size_t kMaxRegions = 4096;
  static constexpr size_t kMaxNameBytes = 1024;  // of a region's name, and of its key

  const bool enabled_;
  std::map<std::string, Region> regions_;
};

}  // namespace caravan
