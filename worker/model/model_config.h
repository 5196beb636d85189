// What a Hugging Face config.json says about a LLaMA model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/view.h"

namespace caravan {

enum class RopeType : uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn };

// Names and meaning of transformers' rope_scaling (4.x) or rope_parameters (5.x).
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double factor = 1;                   // all but default
  int64_t original_max_positions = 0;  // llama3, yarn (dynamic: the model's max_positions)
  double low_freq_factor = 1;          // llama3
  double high_freq_factor = 4;         // llama3
  double beta_fast = 32;               // yarn, as all below
  double beta_slow = 1;
  std::optional<double> attention_factor;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  bool truncate = true;
};

// A checked configuration: every size is positive and within its limit, heads are a multiple of
// KV heads, head_size is even and in [32, 256].
struct ModelConfig {
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_size = 0;
  int32_t vocab_size = 0;
  int32_t max_positions = 0;  // max_position_embeddings
  // False: the checkpoint does not say, and a longer context may be chosen.
  bool max_positions_known = true;
  float rms_norm_eps = 1e-6F;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::optional<DType> dtype;          // of the checkpoint, where the file says it
  std::vector<int32_t> eos_token_ids;  // config.json's and generation_config.json's, ascending
  std::optional<int32_t> bos_token_id;

  // The longest context that the rope type is made for: max_positions, times the factor where the
  // type stretches it.
  int32_t DefaultContextTokens() const;
};

// Parses the text of a config.json; `file` is named in errors, which are INVALID_ARGUMENT with
// field, value and limit. Only LlamaForCausalLM is known.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json, std::string_view file);

// Reads config.json, and generation_config.json where there is one, of a model folder; where there
// is none, the config.ini of a FasterTransformer checkpoint.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder);

}  // namespace caravan
