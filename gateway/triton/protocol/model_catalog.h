// The four models that a LLaMA deployment on Triton shows, as its model repository describes them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/triton/protocol/tensor.h"
#include "inference/model_config.pb.h"

namespace caravan {

enum class TritonModelKind : uint8_t {
  kEnsemble,
  kFasterTransformer,
  kPreprocessing,
  kPostprocessing
};

struct TensorSpec {
  std::string name;
  DataType datatype = DataType::kInvalid;
  Shape dims;             // without the batch dimension; -1 = any
  bool optional = false;  // inputs only
  bool scalar = false;    // the backend sees [B]: the configuration says `reshape { shape: [ ] }`
  // Of newer clients, or hidden by the succeeded system's configuration: accepted, and not in
  // metadata or configuration.
  bool hidden = false;
  bool any_integer = false;  // INT32, UINT32, INT64 and UINT64 are all accepted
};

// One model. Immutable.
struct TritonModel {
  TritonModelKind kind;
  std::string name;
  std::string platform;  // as ModelMetadata has it: "ensemble", or the backend's name
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  inference::ModelConfig config;

  const TensorSpec* FindInput(std::string_view input) const;
  const TensorSpec* FindOutput(std::string_view output) const;
};

// What ModelMetadata says of a tensor's shape: with -1 for the batch in front.
Shape WireShape(const TensorSpec& tensor);

struct ModelCatalogOptions {
  bool decoupled = true;      // what ModelConfig reports for ensemble and fastertransformer
  int max_batch_size = 1024;  // rows of one request
  int tensor_parallel = 1;    // these three are reported, in parameters of fastertransformer
  std::string data_type = "fp16";
  std::string checkpoint_path;
};

inline constexpr char kTritonModelVersion[] = "1";

// In the order of the repository index: by name.
std::vector<TritonModel> MakeModelCatalog(const ModelCatalogOptions& options);

}  // namespace caravan
