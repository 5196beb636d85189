#include "worker/model/files/fastertransformer_folder.h"

#include <charconv>
#include <cmath>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/log.h"
#include "common/regular_file.h"
#include "common/status.h"
#include "worker/model/files/json_reader.h"

namespace caravan {
namespace {

constexpr int64_t kMaxIniBytes = 1 << 20;
constexpr int64_t kMaxSize = 1 << 24;
constexpr int32_t kMaxRanks = 1024;
constexpr char kSection[] = "llama";
constexpr double kLayernormEps = 1e-6;  // LLaMA's; LLaMA 2 has 1e-5

using Keys = std::map<std::string, std::string>;

// The keys of the section [llama], as Python's configparser writes them.
Keys ReadSection(const std::string& text) {
  Keys keys;
  std::string section;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line.front() == '[' && line.back() == ']') {
      section = std::string(line.substr(1, line.size() - 2));
      continue;
    }
    const size_t sign = line.find_first_of("=:");
    if (sign == absl::string_view::npos || section != kSection) continue;
    keys[absl::AsciiStrToLower(absl::StripAsciiWhitespace(line.substr(0, sign)))] =
        std::string(absl::StripAsciiWhitespace(line.substr(sign + 1)));
  }
  return keys;
}

// Reads keys of one config.ini; the first that is wrong is kept as status().
class IniFields {
 public:
  IniFields(Keys keys, std::string file) : keys_(std::move(keys)), file_(std::move(file)) {}

  bool Has(const char* key) const { return keys_.contains(key); }
  std::string Text(const char* key) {
    const auto found = keys_.find(key);
    if (found != keys_.end()) return found->second;
    Fail(key, "is missing");
    return "";
  }
  int32_t Size(const char* key) {
    const double value = Number(key);
    if (status_.ok() && (value < 1 || value > kMaxSize || value != std::floor(value))) {
      Fail(key, absl::StrCat("is ", keys_[key], ", must be a whole number in [1, ", kMaxSize, "]"));
    }
    return status_.ok() ? static_cast<int32_t>(value) : 0;
  }
  double Number(const char* key) {
    const std::string text = Text(key);
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_number = error == std::errc() && end == text.data() + text.size();
    if (status_.ok() && (!is_number || !(value > -1e15 && value < 1e15))) {
      Fail(key, absl::StrCat("is '", text.substr(0, 100), "', must be a number"));
    }
    return status_.ok() ? value : 0;
  }
  void Fail(const char* key, const std::string& problem) {
    if (!status_.ok()) return;
    status_ =
        absl::InvalidArgumentError(absl::StrCat(file_, ": [", kSection, "] ", key, " ", problem));
  }
  const absl::Status& status() const { return status_; }

 private:
  Keys keys_;
  std::string file_;
  absl::Status status_;
};

void ReadDtype(IniFields& fields, FasterTransformerConfig* config) {
  const std::map<std::string, std::string> names = {
      {"fp32", "F32"}, {"fp16", "F16"}, {"bf16", "BF16"}};
  const std::string name = fields.Text("weight_data_type");
  const auto found = names.find(name);
  if (found != names.end()) {
    config->dtype_name = found->second;
  } else {
    fields.Fail("weight_data_type",
                absl::StrCat("is '", name.substr(0, 100), "', must be fp32, fp16 or bf16"));
  }
}

// They have no effect, the tokenizer's own are used; but who wrote them may count on them.
void WarnOfIds(IniFields& fields, const std::string& file, int32_t vocab_size) {
  for (const char* key : {"start_id", "end_id"}) {
    if (!fields.Has(key)) continue;
    int64_t id = 0;
    if (absl::SimpleAtoi(fields.Text(key), &id) && id >= 0 && id < vocab_size) continue;
    LogWarning("ignored a token id outside of the vocabulary; the tokenizer's own is used",
               {{"file", file},
                {"key", key},
                {"value", fields.Text(key).substr(0, 100)},
                {"vocab_size", vocab_size}});
  }
}

}  // namespace

absl::StatusOr<FasterTransformerConfig> ReadFasterTransformerConfig(const std::string& folder) {
  const std::string file = folder + "/config.ini";
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(file, kMaxIniBytes));
  IniFields fields(ReadSection(text), file);
  FasterTransformerConfig config;
  config.head_num = fields.Size("head_num");
  config.size_per_head = fields.Size("size_per_head");
  if (config.hidden_size() > kMaxSize) {
    fields.Fail("size_per_head", absl::StrCat("times head_num is ", config.hidden_size(),
                                              ", must be at most ", kMaxSize));
  }
  config.inter_size = fields.Size("inter_size");
  config.num_layer = fields.Size("num_layer");
  config.vocab_size = fields.Size("vocab_size");
  if (fields.Has("layernorm_eps")) {
    config.layernorm_eps = fields.Number("layernorm_eps");
  } else {
    // The converter leaves it out; FasterTransformer wanted it added by hand.
    config.layernorm_eps = kLayernormEps;
    LogWarning("assumed layernorm_eps", {{"file", file},
                                         {"value", kLayernormEps},
                                         {"add", "rms_norm_eps of the model that was converted"}});
  }
  if (fields.Has("max_position_embeddings")) {
    config.max_positions = fields.Size("max_position_embeddings");
  }
  ReadDtype(fields, &config);
  if (fields.Size("rotary_embedding") != config.size_per_head) {
    fields.Fail("rotary_embedding",
                absl::StrCat("is ", fields.Text("rotary_embedding"),
                             ", must be size_per_head, which is ", config.size_per_head));
  }
  for (const char* key : {"num_tasks", "prompt_learning_type"}) {
    if (fields.Has(key) && fields.Number(key) != 0) {
      fields.Fail(key, absl::StrCat("is ", fields.Text(key), "; prompt learning is not supported"));
    }
  }
  RETURN_IF_ERROR(fields.status());
  WarnOfIds(fields, file, config.vocab_size);
  return config;
}

absl::StatusOr<std::unique_ptr<FasterTransformerFolder>> FasterTransformerFolder::Open(
    const std::string& folder) {
  ASSIGN_OR_RETURN(FasterTransformerConfig config, ReadFasterTransformerConfig(folder));
  auto opened = std::unique_ptr<FasterTransformerFolder>(
      new FasterTransformerFolder(folder, std::move(config)));
  RETURN_IF_ERROR(opened->CountRanks());
  RETURN_IF_ERROR(opened->MapAll());
  RETURN_IF_ERROR(opened->CheckLayers());
  return opened;
}

// Files of more layers than config.ini says: a model without its last layers answers nonsense.
absl::Status FasterTransformerFolder::CheckLayers() const {
  const std::string next = absl::StrCat("model.layers.", config_.num_layer, ".");
  for (const char* file :
       {"input_layernorm.weight.bin", "attention.query_key_value.weight.0.bin"}) {
    ASSIGN_OR_RETURN(const bool exists, PathExists(absl::StrCat(path_, "/", next, file)));
    if (!exists) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path_, "/config.ini: [", kSection, "] num_layer is ", config_.num_layer,
                     ", and the folder has more layers: ", next, file,
                     "; a model of fewer layers has no files of them"));
  }
  return absl::OkStatus();
}

absl::Status FasterTransformerFolder::CountRanks() {
  for (; ranks_ < kMaxRanks; ++ranks_) {
    ASSIGN_OR_RETURN(
        const bool exists,
        PathExists(absl::StrCat(path_, "/model.layers.0.attention.query_key_value.weight.", ranks_,
                                ".bin")));
    if (!exists) break;
  }
  if (ranks_ == 0) {
    return absl::NotFoundError(
        absl::StrCat(path_, ": has no model.layers.0.attention.query_key_value.weight.0.bin"));
  }
  if (config_.hidden_size() % ranks_ == 0 && config_.inter_size % ranks_ == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      path_, ": its layers are cut for ", ranks_, " ranks, which does not divide head_num * ",
      "size_per_head = ", config_.hidden_size(), " and inter_size = ", config_.inter_size));
}

absl::Status FasterTransformerFolder::MapAll() {
  const int64_t hidden = config_.hidden_size();
  const int64_t inter = config_.inter_size;
  const std::vector<int64_t> vocabulary = {config_.vocab_size, hidden};
  RETURN_IF_ERROR(AddWhole("model.wte.weight", "model.embed_tokens.weight", vocabulary));
  RETURN_IF_ERROR(AddWhole("model.final_layernorm.weight", "model.norm.weight", {hidden}));
  RETURN_IF_ERROR(AddWhole("model.lm_head.weight", "lm_head.weight", vocabulary));
  for (int32_t layer = 0; layer < config_.num_layer; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"}) {
      RETURN_IF_ERROR(AddWhole(prefix + norm, prefix + norm, {hidden}));
    }
    RETURN_IF_ERROR(AddQkv(prefix + "attention.query_key_value.weight", prefix));
    RETURN_IF_ERROR(AddCutByColumn(prefix + "attention.dense.weight",
                                   prefix + "self_attn.o_proj.weight", hidden, hidden));
    for (const char* name : {"mlp.gate_proj.weight", "mlp.up_proj.weight"}) {
      RETURN_IF_ERROR(AddCutByRow(prefix + name, prefix + name, inter, hidden));
    }
    RETURN_IF_ERROR(AddCutByColumn(prefix + "mlp.down_proj.weight", prefix + "mlp.down_proj.weight",
                                   hidden, inter));
  }
  return absl::OkStatus();
}

absl::StatusOr<const std::byte*> FasterTransformerFolder::Map(const std::string& name,
                                                              int64_t elements) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(absl::StrCat(path_, "/", name, ".bin")));
  const int64_t expected = elements * ElementBytes(config_.dtype_name);
  if (file.bytes() != expected) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": has ", file.bytes(), " bytes; ",
                                                   elements, " elements of ", config_.dtype_name,
                                                   ", as config.ini says, take ", expected));
  }
  files_.push_back(std::move(file));
  return files_.back().data();
}

TensorInfo FasterTransformerFolder::NewTensor(const std::string& name,
                                              std::vector<int64_t> shape) const {
  TensorInfo tensor;
  tensor.name = name;
  tensor.dtype_name = config_.dtype_name;
  tensor.bytes = ElementBytes(config_.dtype_name);
  for (const int64_t size : shape) tensor.bytes *= size;
  tensor.shape = std::move(shape);
  return tensor;
}

absl::Status FasterTransformerFolder::AddWhole(const std::string& file, const std::string& name,
                                               std::vector<int64_t> shape) {
  TensorInfo tensor = NewTensor(name, std::move(shape));
  const int64_t elements = tensor.bytes / ElementBytes(config_.dtype_name);
  ASSIGN_OR_RETURN(tensor.data, Map(file, elements));
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

// A rank's file is [hidden in, 3, hidden out / N].
absl::Status FasterTransformerFolder::AddQkv(const std::string& file, const std::string& prefix) {
  const int64_t hidden = config_.hidden_size();
  const int64_t rows = hidden / ranks_;
  std::vector<TensorInfo> qkv;
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    qkv.push_back(NewTensor(absl::StrCat(prefix, "self_attn.", name, ".weight"), {hidden, hidden}));
  }
  for (int32_t rank = 0; rank < ranks_; ++rank) {
    ASSIGN_OR_RETURN(const std::byte* data, Map(absl::StrCat(file, ".", rank), hidden * 3 * rows));
    for (TensorInfo& tensor : qkv) {
      tensor.parts.push_back({rank * rows, rows, 0, hidden, data, 1, 3 * rows});
      data += rows * ElementBytes(config_.dtype_name);
    }
  }
  for (TensorInfo& tensor : qkv) tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

// A rank's file is [cols, rows / N].
absl::Status FasterTransformerFolder::AddCutByRow(const std::string& file, const std::string& name,
                                                  int64_t rows, int64_t cols) {
  TensorInfo tensor = NewTensor(name, {rows, cols});
  const int64_t of_rank = rows / ranks_;
  for (int32_t rank = 0; rank < ranks_; ++rank) {
    ASSIGN_OR_RETURN(const std::byte* data, Map(absl::StrCat(file, ".", rank), of_rank * cols));
    tensor.parts.push_back({rank * of_rank, of_rank, 0, cols, data, 1, of_rank});
  }
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

// A rank's file is [cols / N, rows].
absl::Status FasterTransformerFolder::AddCutByColumn(const std::string& file,
                                                     const std::string& name, int64_t rows,
                                                     int64_t cols) {
  TensorInfo tensor = NewTensor(name, {rows, cols});
  const int64_t of_rank = cols / ranks_;
  for (int32_t rank = 0; rank < ranks_; ++rank) {
    ASSIGN_OR_RETURN(const std::byte* data, Map(absl::StrCat(file, ".", rank), rows * of_rank));
    tensor.parts.push_back({0, rows, rank * of_rank, of_rank, data, 1, rows});
  }
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

}  // namespace caravan
