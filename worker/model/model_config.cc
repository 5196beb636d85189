#include "worker/model/model_config.h"

#include <algorithm>
#include <filesystem>
#include <limits>

#include "common/regular_file.h"
#include "common/status.h"
#include "worker/model/files/fastertransformer_folder.h"
#include "worker/model/files/json_reader.h"

namespace caravan {
namespace {

constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr int64_t kMaxHidden = 1 << 17;
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxPositions = 1 << 24;
constexpr double kMaxFactor = 1e6;

absl::Status CheckArchitecture(const nlohmann::json& root, std::string_view file) {
  constexpr char kSupported[] = "LlamaForCausalLM";
  const auto it = root.find("architectures");
  if (it == root.end() || !it->is_array() || it->empty() || !(*it)[0].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(file),
                     ": architectures must be a list with the name of the "
                     "model's class, e.g. [\"",
                     kSupported, "\"]"));
  }
  const auto& name = (*it)[0].get_ref<const std::string&>();
  if (it->size() == 1 && name == kSupported) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(std::string(file), ": architecture ",
                                                 Brief((*it)[0]), " is not supported, only ",
                                                 kSupported, " is"));
}

std::optional<double> OptionalNumber(JsonFields& fields, const char* field, double least,
                                     double most) {
  if (!fields.Has(field)) return std::nullopt;
  return fields.Number(field, least, most);
}

void ReadRopeType(JsonFields& fields, RopeConfig* rope) {
  // 'type' was the name of 'rope_type' before transformers 4.43; both may stand there.
  const char* field = fields.Has("rope_type") ? "rope_type" : "type";
  const std::string type = fields.Text(field, "default");
  if (type == "default") {
    rope->type = RopeType::kDefault;
  } else if (type == "linear") {
    rope->type = RopeType::kLinear;
  } else if (type == "dynamic") {
    rope->type = RopeType::kDynamic;
  } else if (type == "llama3") {
    rope->type = RopeType::kLlama3;
  } else if (type == "yarn") {
    rope->type = RopeType::kYarn;
  } else {
    fields.Fail(field, absl::StrCat("is ", Brief(type),
                                    ", supported are default, linear, dynamic, "
                                    "llama3 and yarn"));
  }
}

void ReadRopeScaling(JsonFields& fields, int64_t max_positions, RopeConfig* rope) {
  ReadRopeType(fields, rope);
  if (rope->type == RopeType::kDefault) return;
  rope->factor = fields.Number("factor", 1, kMaxFactor);
  if (rope->type == RopeType::kLlama3) {
    rope->low_freq_factor = fields.Number("low_freq_factor", 1e-6, kMaxFactor);
    rope->high_freq_factor = fields.Number("high_freq_factor", 1e-6, kMaxFactor);
    if (fields.status().ok() && rope->high_freq_factor <= rope->low_freq_factor) {
      fields.Fail("high_freq_factor",
                  absl::StrCat("is ", rope->high_freq_factor, ", must be above low_freq_factor, ",
                               rope->low_freq_factor));
    }
    rope->original_max_positions =
        fields.Integer("original_max_position_embeddings", 1, kMaxPositions);
  } else if (rope->type == RopeType::kYarn) {
    rope->original_max_positions =
        fields.Integer("original_max_position_embeddings", 1, kMaxPositions, max_positions);
    rope->beta_fast = fields.Number("beta_fast", 1e-6, 1e6, 32);
    rope->beta_slow = fields.Number("beta_slow", 1e-6, 1e6, 1);
    rope->attention_factor = OptionalNumber(fields, "attention_factor", 0, 1e3);
    rope->mscale = OptionalNumber(fields, "mscale", 0, 1e3);
    rope->mscale_all_dim = OptionalNumber(fields, "mscale_all_dim", 0, 1e3);
    rope->truncate = fields.Bool("truncate", true);
  }
}

absl::Status ReadRope(JsonFields& top, const nlohmann::json& root, std::string_view file,
                      ModelConfig* config) {
  constexpr double kLeastTheta = 1.0001;
  constexpr double kMostTheta = 1e15;
  config->rope.theta = top.Number("rope_theta", kLeastTheta, kMostTheta, 10000.0);
  // Version 5 of transformers moved rope_theta and rope_scaling into rope_parameters.
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* scaling = top.Find(field);
    if (scaling == nullptr) continue;
    if (!scaling->is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(
          std::string(file), ": ", field, " must be an object, found ", Brief(*scaling)));
    }
    JsonFields fields(*scaling, file, absl::StrCat(field, "."));
    config->rope.theta = fields.Number("rope_theta", kLeastTheta, kMostTheta, config->rope.theta);
    ReadRopeScaling(fields, config->max_positions, &config->rope);
    const double partial = fields.Number("partial_rotary_factor", 0, 1, 1.0);
    if (partial != 1.0) fields.Fail("partial_rotary_factor", "must be 1 for a LLaMA model");
    RETURN_IF_ERROR(fields.status());
  }
  return absl::OkStatus();
}

void ReadTokenIds(JsonFields& fields, const char* field, int64_t vocab_size,
                  std::vector<int32_t>* ids) {
  const nlohmann::json* value = fields.Find(field);
  if (value == nullptr) return;
  const auto add = [&](const nlohmann::json& id) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) {
      fields.Fail(field, absl::StrCat("holds ", Brief(id), ", must be a token id in [0, ",
                                      vocab_size - 1, "] (below vocab_size)"));
      return;
    }
    ids->push_back(static_cast<int32_t>(id.get<int64_t>()));
  };
  if (!value->is_array()) return add(*value);
  for (const nlohmann::json& id : *value) add(id);
}

void ReadDtype(JsonFields& fields, ModelConfig* config) {
  const char* field = fields.Has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = fields.Text(field, "");
  if (name.empty()) return;
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    if (name == NameOf(dtype)) config->dtype = dtype;
  }
  if (!config->dtype) {
    fields.Fail(field,
                absl::StrCat("is ", Brief(name), ", supported are float32, float16 and bfloat16"));
  }
}

void ReadSizes(JsonFields& fields, ModelConfig* config) {
  const auto size = [&](const char* field, int64_t most) {
    return static_cast<int32_t>(fields.Integer(field, 1, most));
  };
  config->hidden_size = size("hidden_size", kMaxHidden);
  config->intermediate_size = size("intermediate_size", kMaxIntermediate);
  config->num_layers = size("num_hidden_layers", kMaxLayers);
  config->num_heads = size("num_attention_heads", kMaxHeads);
  config->num_kv_heads =
      static_cast<int32_t>(fields.Integer("num_key_value_heads", 1, kMaxHeads, config->num_heads));
  config->vocab_size = size("vocab_size", kMaxVocab);
  config->max_positions =
      static_cast<int32_t>(fields.Integer("max_position_embeddings", 1, kMaxPositions, 2048));
  config->rms_norm_eps = static_cast<float>(fields.Number("rms_norm_eps", 1e-30, 1, 1e-6));
}

void ReadHeadSize(JsonFields& fields, ModelConfig* config) {
  if (!fields.status().ok()) return;
  if (config->num_heads % config->num_kv_heads != 0) {
    fields.Fail("num_attention_heads",
                absl::StrCat("is ", config->num_heads,
                             ", must be a multiple of num_key_value_heads, which is ",
                             config->num_kv_heads));
    return;
  }
  if (!fields.Has("head_dim") && config->hidden_size % config->num_heads != 0) {
    fields.Fail("hidden_size",
                absl::StrCat("is ", config->hidden_size,
                             ", must be a multiple of num_attention_heads, which is ",
                             config->num_heads, ", where head_dim is not given"));
    return;
  }
  const int64_t head_size =
      fields.Integer("head_dim", 1, 1 << 20, config->hidden_size / config->num_heads);
  if (head_size < 32 || head_size > 256 || head_size % 2 != 0) {
    fields.Fail("head_dim", absl::StrCat("(given, or hidden_size / num_attention_heads) is ",
                                         head_size, ", must be even and in [32, 256]"));
  }
  config->head_size = static_cast<int32_t>(head_size);
}

void RefuseWhatIsUnknown(JsonFields& fields) {
  const std::string act = fields.Text("hidden_act", "silu");
  if (act != "silu") {
    fields.Fail("hidden_act", absl::StrCat("is ", Brief(act), ", only \"silu\" is supported"));
  }
  if (fields.Has("quantization_config")) {
    fields.Fail("quantization_config", "is set: quantized checkpoints are not supported");
  }
  if (fields.Number("partial_rotary_factor", 0, 1, 1.0) != 1.0) {
    fields.Fail("partial_rotary_factor", "must be 1 for a LLaMA model");
  }
}

void SortUnique(std::vector<int32_t>* ids) {
  std::sort(ids->begin(), ids->end());
  ids->erase(std::unique(ids->begin(), ids->end()), ids->end());
}

// What the folder leaves out was fixed in FasterTransformer, or had no limit there; its start_id
// and end_id are often wrong (0 and 1), so the tokenizer's are taken.
absl::StatusOr<ModelConfig> LoadFasterTransformerConfig(const std::string& folder) {
  constexpr int32_t kTrainedPositions = 2048;
  ASSIGN_OR_RETURN(const FasterTransformerConfig source, ReadFasterTransformerConfig(folder));
  ModelConfig config;
  config.hidden_size = static_cast<int32_t>(std::min(source.hidden_size(), kMaxHidden + 1));
  config.intermediate_size = source.inter_size;
  config.num_layers = source.num_layer;
  config.num_heads = config.num_kv_heads = source.head_num;
  config.head_size = source.size_per_head;
  config.vocab_size = source.vocab_size;
  config.max_positions = source.max_positions.value_or(kTrainedPositions);
  config.max_positions_known = source.max_positions.has_value();
  config.rms_norm_eps = static_cast<float>(source.layernorm_eps);
  TensorInfo weights;
  weights.dtype_name = source.dtype_name;
  config.dtype = weights.dtype();
  const std::string file = folder + "/config.ini: ";
  if (config.hidden_size > kMaxHidden || config.intermediate_size > kMaxIntermediate ||
      config.num_layers > kMaxLayers || config.num_heads > kMaxHeads) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, "head_num * size_per_head, inter_size, num_layer and head_num must be at most ",
        kMaxHidden, ", ", kMaxIntermediate, ", ", kMaxLayers, " and ", kMaxHeads));
  }
  if (config.head_size < 32 || config.head_size > 256 || config.head_size % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file, "size_per_head is ", config.head_size,
                                                   ", must be even and in [32, 256]"));
  }
  if (!(config.rms_norm_eps >= 1e-30F && config.rms_norm_eps <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, "layernorm_eps is ", source.layernorm_eps, ", must be in [1e-30, 1]"));
  }
  return config;
}

}  // namespace

int32_t ModelConfig::DefaultContextTokens() const {
  double positions = max_positions;
  if (rope.type == RopeType::kLinear || rope.type == RopeType::kDynamic) positions *= rope.factor;
  if (rope.type == RopeType::kYarn) {
    positions = std::max(positions, static_cast<double>(rope.original_max_positions) * rope.factor);
  }
  return static_cast<int32_t>(std::min(positions, static_cast<double>(kMaxPositions)));
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json, std::string_view file) {
  ASSIGN_OR_RETURN(const nlohmann::json root, ParseJsonObject(json, file));
  RETURN_IF_ERROR(CheckArchitecture(root, file));
  ModelConfig config;
  JsonFields fields(root, file);
  ReadSizes(fields, &config);
  ReadHeadSize(fields, &config);
  config.tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  config.attention_bias = fields.Bool("attention_bias", false);
  config.mlp_bias = fields.Bool("mlp_bias", false);
  RefuseWhatIsUnknown(fields);
  ReadDtype(fields, &config);
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(ReadRope(fields, root, file, &config));
  ReadTokenIds(fields, "eos_token_id", config.vocab_size, &config.eos_token_ids);
  std::vector<int32_t> bos;
  ReadTokenIds(fields, "bos_token_id", config.vocab_size, &bos);
  if (!bos.empty()) config.bos_token_id = bos.front();
  RETURN_IF_ERROR(fields.status());
  SortUnique(&config.eos_token_ids);
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat("model folder ", folder, " does not exist"));
  }
  const std::string path = folder + "/config.json";
  const absl::StatusOr<std::string> text = ReadRegularFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) {
    ASSIGN_OR_RETURN(const bool is_fastertransformer, PathExists(folder + "/config.ini"));
    if (is_fastertransformer) return LoadFasterTransformerConfig(folder);
    return absl::NotFoundError(
        absl::StrCat("model folder ", folder, " has neither config.json nor config.ini"));
  }
  RETURN_IF_ERROR(text.status());
  ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(*text, path));
  const std::string generation_path = folder + "/generation_config.json";
  const absl::StatusOr<std::string> generation = ReadRegularFile(generation_path, kMaxConfigBytes);
  if (absl::IsNotFound(generation.status())) return config;
  RETURN_IF_ERROR(generation.status());
  ASSIGN_OR_RETURN(const nlohmann::json root, ParseJsonObject(*generation, generation_path));
  JsonFields fields(root, generation_path);
  ReadTokenIds(fields, "eos_token_id", config.vocab_size, &config.eos_token_ids);
  RETURN_IF_ERROR(fields.status());
  SortUnique(&config.eos_token_ids);
  return config;
}

}  // namespace caravan
