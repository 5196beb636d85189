// One .safetensors file, memory-mapped: 8 bytes little-endian header length, a JSON header {name:
// {dtype, shape, data_offsets}}, then the tensors' bytes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/files/mapped_file.h"
#include "worker/model/files/tensor_info.h"

namespace caravan {

class SafetensorsFile final : public TensorFile {
 public:
  // Maps the file and checks its header whole: length, JSON, names, dtypes, shapes against sizes,
  // offsets against the file and each other. Errors are INVALID_ARGUMENT (NOT_FOUND without a
  // file) and name file, tensor, expected and found.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  const std::string& path() const override { return map_.path(); }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }  // by name

 private:
  explicit SafetensorsFile(MappedFile map) : map_(std::move(map)) {}
  absl::Status ParseHeader();

  MappedFile map_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace caravan
