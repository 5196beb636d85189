// A file of weights in memory without being read: pages come when they are touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace caravan {

class MappedFile {
 public:
  // A regular file, read-only; it may be empty. NOT_FOUND where it does not exist.
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        map_(std::exchange(other.map_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const std::byte* data() const { return static_cast<const std::byte*>(map_); }
  int64_t bytes() const { return bytes_; }
  std::string_view text() const {
    return {static_cast<const char*>(map_), static_cast<size_t>(bytes_)};
  }

 private:
  MappedFile(std::string path, void* map, int64_t bytes)
      : path_(std::move(path)), map_(map), bytes_(bytes) {}

  std::string path_;
  void* map_ = nullptr;
  int64_t bytes_ = 0;
};

// From now on, touching a page of a mapped file that is gone (the file was cut short, or its disk
// fails) ends the process with exit code 1 and a line on stderr that names the file, instead of
// SIGBUS without a word. For main; a second call does nothing.
void ExplainLostPages();

}  // namespace caravan
