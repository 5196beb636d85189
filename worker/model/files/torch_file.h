// One file of torch.save (pytorch_model.bin), memory-mapped: a zip file of a pickle that describes
// tensors, data.pkl, and their bytes, data/0, data/1, …
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/files/mapped_file.h"
#include "worker/model/files/tensor_info.h"
#include "worker/model/files/tensor_pickle.h"
#include "worker/model/files/zip_archive.h"

namespace caravan {

class TorchFile final : public TensorFile {
 public:
  // Checks the whole description: names, types, sizes and strides against the storages that are
  // there. Nothing in the file is executed. Errors are INVALID_ARGUMENT (NOT_FOUND without a file)
  // and name file and tensor.
  static absl::StatusOr<std::unique_ptr<TorchFile>> Open(const std::string& path);

  const std::string& path() const override { return map_.path(); }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

 private:
  explicit TorchFile(MappedFile map) : map_(std::move(map)) {}
  absl::Status Parse();
  absl::Status Add(const PickledTensor& pickled, const ZipEntries& entries,
                   const std::string& folder);

  MappedFile map_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace caravan
