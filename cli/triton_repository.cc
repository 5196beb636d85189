#include "cli/triton_repository.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/triton_models.h"
#include "common/regular_file.h"
#include "common/status.h"
#include "inference/model_config.pb.h"

namespace caravan {
namespace {

constexpr char kFasterTransformer[] = "fastertransformer";
constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int kMaxRanks = 64;

using Configs = std::map<std::string, inference::ModelConfig>;

absl::Status Unsupported(const std::string& model, const std::string& problem) {
  return absl::UnimplementedError(absl::StrCat(model, "/config.pbtxt: ", problem));
}

absl::Status Wrong(const std::string& model, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(model, "/config.pbtxt: ", problem));
}

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat("line ", line + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

absl::StatusOr<inference::ModelConfig> ReadConfig(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.pbtxt";
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(path.string(), kMaxConfigBytes));
  inference::ModelConfig config;
  google::protobuf::TextFormat::Parser parser;
  FirstError first;
  parser.RecordErrorsTo(&first);
  if (!parser.ParseFromString(text, &config)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", first.text()));
  }
  const std::string name = folder.filename().string();
  if (config.name().empty()) config.set_name(name);
  if (config.name() == name) return config;
  return Wrong(name, absl::StrCat("name is '", config.name(), "', the folder's is '", name, "'"));
}

// Without exceptions, which directory_iterator's ++ has.
absl::StatusOr<std::vector<std::filesystem::path>> EntriesOf(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> entries;
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  while (!error && entry != std::filesystem::directory_iterator()) {
    entries.push_back(entry->path());
    entry.increment(error);
  }
  if (!error) return entries;
  return absl::NotFoundError(absl::StrCat("can't read ", folder.string(), ": ", error.message()));
}

// A link that leads nowhere looks like a model that is not there.
absl::Status CheckLink(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error) || std::filesystem::exists(path, error)) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat(path.string(), " is a link to ",
                                          std::filesystem::read_symlink(path, error).string(),
                                          ", which can't be read"));
}

absl::StatusOr<Configs> ReadConfigs(const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat("there is no model repository ", folder));
  }
  Configs configs;
  ASSIGN_OR_RETURN(const std::vector<std::filesystem::path> entries, EntriesOf(folder));
  for (const std::filesystem::path& entry : entries) {
    RETURN_IF_ERROR(CheckLink(entry));
    const std::filesystem::path config = entry / "config.pbtxt";
    if (!std::filesystem::is_directory(entry, error)) continue;
    RETURN_IF_ERROR(CheckLink(config));
    if (!std::filesystem::exists(config, error)) continue;
    ASSIGN_OR_RETURN(configs[entry.filename().string()], ReadConfig(entry));
  }
  if (configs.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, " is no model repository: no folder in it has a config.pbtxt"));
  }
  return configs;
}

// The parameters of the fastertransformer model.
class Parameters {
 public:
  explicit Parameters(const inference::ModelConfig& config) : config_(config) {}

  std::string Text(const std::string& key) const {
    const auto found = config_.parameters().find(key);
    return found == config_.parameters().end() ? "" : found->second.string_value();
  }
  absl::StatusOr<int> Number(const std::string& key, int fallback, int least, int most) const {
    const std::string text = Text(key);
    int value = fallback;
    if (text.empty() || (absl::SimpleAtoi(text, &value) && value >= least && value <= most)) {
      return value;
    }
    return Wrong(config_.name(), absl::StrCat("parameter ", key, " is '", text,
                                              "', must be a number from ", least, " to ", most));
  }

 private:
  const inference::ModelConfig& config_;
};

// ".../2-gpu" as the parameter says it, or where Triton looks without one.
absl::StatusOr<std::string> FindCheckpoint(const std::filesystem::path& model,
                                           const inference::ModelConfig& config) {
  std::string path = Parameters(config).Text("model_checkpoint_path");
  if (path.empty()) {
    int64_t latest = -1;
    ASSIGN_OR_RETURN(const std::vector<std::filesystem::path> entries, EntriesOf(model));
    for (const std::filesystem::path& entry : entries) {
      int64_t version = 0;
      if (absl::SimpleAtoi(entry.filename().string(), &version)) {
        latest = std::max(latest, version);
      }
    }
    path = (model / std::to_string(latest) / config.default_model_filename()).string();
  }
  for (const char* file : {"config.ini", "config.json"}) {
    ASSIGN_OR_RETURN(const bool exists, PathExists(absl::StrCat(path, "/", file)));
    if (exists) return path;
  }
  return absl::NotFoundError(absl::StrCat(
      config.name(), "/config.pbtxt: model_checkpoint_path ", path,
      " holds neither the config.ini of a FasterTransformer checkpoint nor a config.json; where "
      "the folder has another place on this host, change the parameter"));
}

absl::Status ReadDataType(const inference::ModelConfig& config, TritonRepository* repository) {
  repository->data_type = Parameters(config).Text("data_type");
  if (repository->data_type.empty()) repository->data_type = "fp16";
  if (!repository->dtype().empty()) return absl::OkStatus();
  return Unsupported(config.name(), absl::StrCat("parameter data_type is '", repository->data_type,
                                                 "'; fp16, bf16 and fp32 are served"));
}

absl::Status ReadFasterTransformer(const std::string& folder, const inference::ModelConfig& config,
                                   TritonRepository* repository) {
  const std::string& name = config.name();
  const Parameters parameters(config);
  const std::string type = parameters.Text("model_type");
  if (type != "Llama") {
    return Unsupported(name, absl::StrCat("parameter model_type is '", type, "'; Llama is served"));
  }
  ASSIGN_OR_RETURN(const int tensor, parameters.Number("tensor_para_size", 1, 1, kMaxRanks));
  ASSIGN_OR_RETURN(const int pipeline, parameters.Number("pipeline_para_size", 1, 1, kMaxRanks));
  ASSIGN_OR_RETURN(const int int8, parameters.Number("int8_mode", 0, 0, 2));
  ASSIGN_OR_RETURN(const int reduce, parameters.Number("enable_custom_all_reduce", 0, 0, 1));
  if (int8 == 2) return Unsupported(name, "parameter int8_mode is 2, which LLaMA never had");
  repository->tensor_parallel = tensor * pipeline;
  if (repository->tensor_parallel > kMaxRanks) {
    return Unsupported(name, absl::StrCat("tensor_para_size * pipeline_para_size is ",
                                          tensor * pipeline, "; at most ", kMaxRanks));
  }
  std::vector<std::string>& notes = repository->notes;
  std::vector<std::string>& warnings = repository->warnings;
  if (pipeline > 1) {
    notes.push_back(absl::StrCat(name, ": pipeline_para_size is ", pipeline, ": all ",
                                 tensor * pipeline, " ranks share each layer instead"));
  }
  if (int8 == 1) {
    warnings.push_back(absl::StrCat(name, ": int8_mode is 1: weights are not quantized, they keep ",
                                    "the precision of data_type and take twice the memory"));
  }
  if (reduce == 1) {
    notes.push_back(absl::StrCat(name, ": enable_custom_all_reduce has no effect: the faster sum ",
                                 "is chosen by itself"));
  }
  const std::set<std::string> known = {
      "tensor_para_size",         "pipeline_para_size", "int8_mode",
      "enable_custom_all_reduce", "model_type",         "data_type",
      "model_checkpoint_path"};
  for (const auto& [key, value] : config.parameters()) {
    if (!known.contains(key)) {
      notes.push_back(absl::StrCat(name, ": parameter ", key, " is not known and has no effect"));
    }
  }
  repository->decoupled = config.model_transaction_policy().decoupled();
  RETURN_IF_ERROR(ReadDataType(config, repository));
  ASSIGN_OR_RETURN(repository->checkpoint,
                   FindCheckpoint(std::filesystem::path(folder) / name, config));
  return absl::OkStatus();
}

}  // namespace

std::string TritonRepository::dtype() const {
  const std::map<std::string, std::string> names = {
      {"fp16", "float16"}, {"bf16", "bfloat16"}, {"fp32", "float32"}};
  const auto found = names.find(data_type);
  return found == names.end() ? "" : found->second;
}

absl::StatusOr<TritonRepository> ReadTritonRepository(const std::string& folder) {
  ASSIGN_OR_RETURN(const Configs configs, ReadConfigs(folder));
  TritonRepository repository;
  repository.max_batch_size = 1 << 20;
  for (const auto& [name, config] : configs) {
    RETURN_IF_ERROR(CheckTritonModel(config, &repository.warnings));
    if (config.max_batch_size() < 1) {
      return Unsupported(name, absl::StrCat("max_batch_size is ", config.max_batch_size(),
                                            "; tensors are served with a batch dimension, so at "
                                            "least 1"));
    }
    if (config.max_batch_size() != configs.begin()->second.max_batch_size()) {
      repository.notes.push_back(absl::StrCat(name, ": max_batch_size is ", config.max_batch_size(),
                                              "; all models take the least"));
    }
    repository.max_batch_size = std::min(repository.max_batch_size, config.max_batch_size());
    NoteIgnoredFields(config, &repository.notes);
  }
  const auto model = configs.find(kFasterTransformer);
  if (model == configs.end()) {
    return absl::NotFoundError(
        absl::StrCat(folder, " has no model of the backend ", kFasterTransformer));
  }
  RETURN_IF_ERROR(ReadFasterTransformer(folder, model->second, &repository));
  for (const std::string& name : ServedTritonModels()) {
    if (configs.contains(name)) continue;
    repository.notes.push_back(absl::StrCat(name, " is not in the repository; it is served too"));
  }
  return repository;
}

}  // namespace caravan
