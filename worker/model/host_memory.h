// Memory of the CPU backend: weights, KV blocks and activations, all taken at start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace caravan {

// Owns zeroed, page-aligned memory of its own.
class HostBuffer {
 public:
  HostBuffer() = default;
  // RESOURCE_EXHAUSTED where the system refuses; the message names `what` and the size.
  static absl::StatusOr<HostBuffer> Allocate(int64_t bytes, std::string_view what);
  ~HostBuffer();
  HostBuffer(HostBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  HostBuffer(void* data, int64_t bytes) : data_(data), bytes_(bytes) {}

  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Bytes that this process may still take: the system's and its control group's. The largest int64
// where neither can be read.
int64_t AvailableHostMemory();

// RESOURCE_EXHAUSTED where `bytes` more are not available: Linux gives out memory that it does not
// have and kills later, so it is asked first. The message has both numbers, `what` needs them and
// `remedy`, the flag to change.
absl::Status CheckHostMemory(int64_t bytes, std::string_view what, std::string_view remedy);

// "1.50 GiB", "12.0 MiB".
std::string BytesText(int64_t bytes);

}  // namespace caravan
