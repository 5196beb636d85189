// The checkpoint folder that FasterTransformer's huggingface_llama_convert.py writes, `N-gpu/`: a
// config.ini and headerless little-endian arrays, the linear layers transposed and cut for N ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/files/mapped_file.h"
#include "worker/model/files/tensor_info.h"

namespace caravan {

// The section [llama] of config.ini, checked: sizes are positive and below 2^24, names are known.
struct FasterTransformerConfig {
  int32_t head_num = 0;
  int32_t size_per_head = 0;
  int32_t inter_size = 0;
  int32_t num_layer = 0;
  int32_t vocab_size = 0;
  double layernorm_eps = 0;
  std::string dtype_name;                // of the arrays, as in TensorInfo
  std::optional<int32_t> max_positions;  // max_position_embeddings, which the converter leaves out

  int64_t hidden_size() const { return int64_t{head_num} * size_per_head; }
};

// INVALID_ARGUMENT naming the key, its value and the limit; NOT_FOUND without the file.
absl::StatusOr<FasterTransformerConfig> ReadFasterTransformerConfig(const std::string& folder);

// The tensors under their Hugging Face names and shapes; cut and transposed ones in parts.
class FasterTransformerFolder final : public TensorFile {
 public:
  // Maps all files and checks their sizes. N is how many files each linear layer has.
  static absl::StatusOr<std::unique_ptr<FasterTransformerFolder>> Open(const std::string& folder);

  const std::string& path() const override { return path_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  int32_t ranks() const { return ranks_; }

 private:
  FasterTransformerFolder(std::string path, FasterTransformerConfig config)
      : path_(std::move(path)), config_(std::move(config)) {}
  absl::Status CheckLayers() const;
  absl::Status CountRanks();
  absl::Status MapAll();
  absl::StatusOr<const std::byte*> Map(const std::string& name, int64_t elements);
  absl::Status AddWhole(const std::string& file, const std::string& name,
                        std::vector<int64_t> shape);
  absl::Status AddQkv(const std::string& file, const std::string& prefix);
  absl::Status AddCutByRow(const std::string& file, const std::string& name, int64_t rows,
                           int64_t cols);
  absl::Status AddCutByColumn(const std::string& file, const std::string& name, int64_t rows,
                              int64_t cols);
  TensorInfo NewTensor(const std::string& name, std::vector<int64_t> shape) const;

  std::string path_;
  FasterTransformerConfig config_;
  int32_t ranks_ = 0;
  std::vector<MappedFile> files_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace caravan
