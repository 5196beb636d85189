// One .safetensors file, memory-mapped: 8 bytes little-endian header length, a JSON header {name:
// {dtype, shape, data_offsets}}, then the tensors' bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/view.h"

namespace caravan {

// A tensor within a mapped file.
struct TensorInfo {
  std::string name;
  std::string dtype_name;      // as the file says: "F32", "BF16", "I64" …
  std::vector<int64_t> shape;  // of at most 8 dimensions
  const std::byte* data = nullptr;
  int64_t bytes = 0;

  std::optional<DType> dtype() const;  // none where no operator takes it
  std::string ShapeText() const;       // "[32, 64]"
};

class SafetensorsFile {
 public:
  // Maps the file and checks its header whole: length, JSON, names, dtypes, shapes against sizes,
  // offsets against the file and each other. Errors are INVALID_ARGUMENT (NOT_FOUND without a
  // file) and name file, tensor, expected and found.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // ascending by name

 private:
  SafetensorsFile(std::string path, void* map, int64_t bytes)
      : path_(std::move(path)), map_(map), bytes_(bytes) {}
  absl::Status ParseHeader();

  std::string path_;
  void* map_;
  int64_t bytes_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace caravan
