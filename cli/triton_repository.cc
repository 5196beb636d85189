#include "cli/triton_repository.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "inference/model_config.pb.h"

namespace caravan {
namespace {

constexpr char kFasterTransformer[] = "fastertransformer";
constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int kMaxRanks = 64;

using Wiring = std::map<std::string, std::string>;  // the model's tensor → the ensemble's
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
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) return absl::NotFoundError(absl::StrCat("can't read ", path.string()));
  if (bytes > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": has ", bytes, " bytes, at most ", kMaxConfigBytes));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), {});
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

absl::StatusOr<Configs> ReadConfigs(const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat("there is no model repository ", folder));
  }
  Configs configs;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (!entry.is_directory(error) ||
        !std::filesystem::exists(entry.path() / "config.pbtxt", error)) {
      continue;
    }
    ASSIGN_OR_RETURN(configs[entry.path().filename().string()], ReadConfig(entry.path()));
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
  std::error_code error;
  if (path.empty()) {
    int64_t latest = -1;
    for (const auto& entry : std::filesystem::directory_iterator(model, error)) {
      int64_t version = 0;
      if (absl::SimpleAtoi(entry.path().filename().string(), &version)) {
        latest = std::max(latest, version);
      }
    }
    path = (model / std::to_string(latest) / config.default_model_filename()).string();
  }
  for (const char* file : {"config.ini", "config.json"}) {
    if (std::filesystem::exists(std::filesystem::path(path) / file, error)) return path;
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
  if (pipeline > 1) {
    notes.push_back(absl::StrCat(name, ": pipeline_para_size is ", pipeline, ": all ",
                                 tensor * pipeline, " ranks share each layer instead"));
  }
  if (int8 == 1) {
    notes.push_back(absl::StrCat(name, ": int8_mode is 1: weights are not quantized, they keep ",
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

// The sampling tensors, which the ensemble passes through under their own names.
const std::set<std::string>& SamplingTensors() {
  static const auto& names = *new std::set<std::string>{
      "runtime_top_k", "runtime_top_p",   "beam_search_diversity_rate",
      "temperature",   "len_penalty",     "repetition_penalty",
      "random_seed",   "beam_width",      "is_return_log_probs",
      "start_id",      "end_id",          "prompt_learning_task_name_ids",
      "top_p_decay",   "top_p_min",       "top_p_reset_ids",
      "min_length",    "presence_penalty"};
  return names;
}

struct KnownModel {
  Wiring inputs;
  Wiring outputs;
};

const std::map<std::string, KnownModel>& KnownModels() {
  static const auto& models = *new std::map<std::string, KnownModel>{
      {"preprocessing",
       {{{"QUERY", "INPUT_0"},
         {"REQUEST_OUTPUT_LEN", "INPUT_1"},
         {"BAD_WORDS_DICT", "INPUT_2"},
         {"STOP_WORDS_DICT", "INPUT_3"}},
        {{"INPUT_ID", "_INPUT_ID"},
         {"REQUEST_INPUT_LEN", "_REQUEST_INPUT_LEN"},
         {"REQUEST_OUTPUT_LEN", "_REQUEST_OUTPUT_LEN"},
         {"BAD_WORDS_IDS", "_BAD_WORDS_IDS"},
         {"STOP_WORDS_IDS", "_STOP_WORDS_IDS"},
         {"PROMPT_LEARNING_TASK_NAME_IDS", "prompt_learning_task_name_ids"}}}},
      {kFasterTransformer,
       {{{"input_ids", "_INPUT_ID"},
         {"input_lengths", "_REQUEST_INPUT_LEN"},
         {"request_output_len", "_REQUEST_OUTPUT_LEN"},
         {"bad_words_list", "_BAD_WORDS_IDS"},
         {"stop_words_list", "_STOP_WORDS_IDS"}},
        {{"output_ids", "_TOKENS_BATCH"},
         {"sequence_length", "sequence_length"},
         {"cum_log_probs", "cum_log_probs"},
         {"output_log_probs", "output_log_probs"}}}},
      {"postprocessing",
       {{{"TOKENS_BATCH", "_TOKENS_BATCH"}, {"sequence_length", "sequence_length"}},
        {{"OUTPUT", "OUTPUT_0"}}}},
      {"ensemble",
       {{{"INPUT_0", ""}, {"INPUT_1", ""}, {"INPUT_2", ""}, {"INPUT_3", ""}},
        {{"OUTPUT_0", ""},
         {"sequence_length", ""},
         {"cum_log_probs", ""},
         {"output_log_probs", ""}}}}};
  return models;
}

bool IsInput(const std::string& model, const std::string& tensor) {
  const bool samples = model == kFasterTransformer || model == "ensemble";
  return KnownModels().at(model).inputs.contains(tensor) ||
         (samples && SamplingTensors().contains(tensor));
}

absl::Status CheckTensors(const inference::ModelConfig& config) {
  for (const inference::ModelInput& input : config.input()) {
    if (IsInput(config.name(), input.name())) continue;
    return Unsupported(config.name(), absl::StrCat("input ", input.name(), " is not served"));
  }
  for (const inference::ModelOutput& output : config.output()) {
    if (KnownModels().at(config.name()).outputs.contains(output.name())) continue;
    return Unsupported(config.name(), absl::StrCat("output ", output.name(), " is not served"));
  }
  return absl::OkStatus();
}

absl::Status CheckWires(const std::string& step, const char* what, const Wiring& expected,
                        const google::protobuf::Map<std::string, std::string>& wires) {
  for (const auto& [tensor, wired] : wires) {
    const auto found = expected.find(tensor);
    const bool passes = step == kFasterTransformer && SamplingTensors().contains(tensor);
    const std::string known = found != expected.end() ? found->second : passes ? tensor : "";
    if (known == wired) continue;
    return Unsupported("ensemble",
                       absl::StrCat("step ", step, " has ", what, " ", tensor, " wired to ", wired,
                                    known.empty() ? ", which is not served"
                                                  : absl::StrCat("; it is served from ", known)));
  }
  return absl::OkStatus();
}

// The steps as they were shipped; sampling tensors may be left out.
absl::Status CheckEnsemble(const inference::ModelConfig& config) {
  std::set<std::string> steps;
  for (const auto& step : config.ensemble_scheduling().step()) {
    const std::string& name = step.model_name();
    if (name == "ensemble" || !KnownModels().contains(name) || !steps.insert(name).second) {
      return Unsupported("ensemble",
                         absl::StrCat("step ", name,
                                      " is not served, or there twice; the steps "
                                      "are preprocessing, fastertransformer and postprocessing"));
    }
    const KnownModel& known = KnownModels().at(name);
    RETURN_IF_ERROR(CheckWires(name, "input", known.inputs, step.input_map()));
    RETURN_IF_ERROR(CheckWires(name, "output", known.outputs, step.output_map()));
  }
  if (steps.size() == 3) return absl::OkStatus();
  return Unsupported("ensemble",
                     absl::StrCat("its steps are ", absl::StrJoin(steps, ", "),
                                  "; preprocessing, fastertransformer and postprocessing are "
                                  "served together"));
}

void NoteWhatHasNoEffect(const inference::ModelConfig& config, std::vector<std::string>* notes) {
  const auto note = [&](bool is_set, const char* what) {
    if (is_set) notes->push_back(absl::StrCat(config.name(), ": ", what));
  };
  note(config.has_dynamic_batching(),
       "dynamic_batching has no effect: requests are batched at every step");
  note(config.has_sequence_batching(), "sequence_batching has no effect: no model keeps state");
  note(config.has_optimization(), "optimization has no effect");
  note(config.has_response_cache() && config.response_cache().enable(),
       "response_cache has no effect: prompts share their cached keys and values instead");
  note(config.model_warmup_size() > 0, "model_warmup has no effect");
  note(config.has_version_policy(), "version_policy has no effect: version 1 is served");
  note(config.backend() == "python",
       "its model.py is not run: the tokenizer service does what the shipped one does");
  for (const inference::ModelInstanceGroup& group : config.instance_group()) {
    note(group.count() > 1, "instance_group.count has no effect: use --replicas");
  }
}

absl::Status CheckKind(const inference::ModelConfig& config) {
  const std::string& name = config.name();
  if (!KnownModels().contains(name)) {
    return Unsupported(name,
                       "is not served; ensemble, fastertransformer, preprocessing and "
                       "postprocessing are, under these names");
  }
  const bool is_ensemble = config.platform() == "ensemble" || config.has_ensemble_scheduling();
  const std::string kind = is_ensemble ? "ensemble" : config.backend();
  const std::string expected =
      name == "ensemble" || name == kFasterTransformer ? name : std::string("python");
  if (kind == expected) return absl::OkStatus();
  return Unsupported(name, absl::StrCat("its backend is '", kind, "'; it is served as ", expected));
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
    RETURN_IF_ERROR(CheckKind(config));
    RETURN_IF_ERROR(CheckTensors(config));
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
    NoteWhatHasNoEffect(config, &repository.notes);
  }
  const auto model = configs.find(kFasterTransformer);
  if (model == configs.end()) {
    return absl::NotFoundError(
        absl::StrCat(folder, " has no model of the backend ", kFasterTransformer));
  }
  RETURN_IF_ERROR(ReadFasterTransformer(folder, model->second, &repository));
  if (configs.contains("ensemble")) RETURN_IF_ERROR(CheckEnsemble(configs.at("ensemble")));
  for (const auto& [name, known] : KnownModels()) {
    if (configs.contains(name)) continue;
    repository.notes.push_back(absl::StrCat(name, " is not in the repository; it is served too"));
  }
  return repository;
}

}  // namespace caravan
