#include "cli/triton_models.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"

namespace caravan {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr char kEnsemble[] = "ensemble";
constexpr char kFasterTransformer[] = "fastertransformer";

struct ServedTensor {
  inference::DataType type;
  std::vector<int64_t> dims;
  std::string wired = {};  // the ensemble's name for it, where the model is a step
};
using Tensors = std::map<std::string, ServedTensor>;

struct ServedModel {
  std::string backend;  // or platform
  Tensors inputs;
  Tensors outputs;
};

absl::Status Unsupported(const std::string& model, const std::string& problem) {
  return absl::UnimplementedError(absl::StrCat(model, "/config.pbtxt: ", problem));
}

// The sampling tensors, which the ensemble passes through under their own names.
const Tensors& SamplingTensors() {
  static const auto& tensors = *new Tensors([] {
    const std::pair<const char*, inference::DataType> scalars[] = {
        {"runtime_top_k", inference::TYPE_UINT32},
        {"runtime_top_p", inference::TYPE_FP32},
        {"beam_search_diversity_rate", inference::TYPE_FP32},
        {"temperature", inference::TYPE_FP32},
        {"len_penalty", inference::TYPE_FP32},
        {"repetition_penalty", inference::TYPE_FP32},
        {"random_seed", inference::TYPE_UINT64},
        {"is_return_log_probs", inference::TYPE_BOOL},
        {"beam_width", inference::TYPE_UINT32},
        {"start_id", inference::TYPE_UINT32},
        {"end_id", inference::TYPE_UINT32},
        {"prompt_learning_task_name_ids", inference::TYPE_UINT32},
        {"top_p_decay", inference::TYPE_FP32},
        {"top_p_min", inference::TYPE_FP32},
        {"top_p_reset_ids", inference::TYPE_UINT32},
        {"min_length", inference::TYPE_UINT32},
        {"presence_penalty", inference::TYPE_FP32}};
    Tensors made;
    for (const auto& [name, type] : scalars) made[name] = {type, {1}, name};
    return made;
  }());
  return tensors;
}

Tensors WithSampling(Tensors tensors) {
  tensors.insert(SamplingTensors().begin(), SamplingTensors().end());
  return tensors;
}

const std::map<std::string, ServedModel>& ServedModels() {
  using inference::TYPE_FP32;
  using inference::TYPE_INT32;
  using inference::TYPE_STRING;
  using inference::TYPE_UINT32;
  static const auto& models = *new std::map<std::string, ServedModel>{
      {"preprocessing",
       {"python",
        {{"QUERY", {TYPE_STRING, {-1}, "INPUT_0"}},
         {"REQUEST_OUTPUT_LEN", {TYPE_UINT32, {-1}, "INPUT_1"}},
         {"BAD_WORDS_DICT", {TYPE_STRING, {-1}, "INPUT_2"}},
         {"STOP_WORDS_DICT", {TYPE_STRING, {-1}, "INPUT_3"}}},
        {{"INPUT_ID", {TYPE_UINT32, {-1}, "_INPUT_ID"}},
         {"REQUEST_INPUT_LEN", {TYPE_UINT32, {1}, "_REQUEST_INPUT_LEN"}},
         {"REQUEST_OUTPUT_LEN", {TYPE_UINT32, {-1}, "_REQUEST_OUTPUT_LEN"}},
         {"BAD_WORDS_IDS", {TYPE_INT32, {2, -1}, "_BAD_WORDS_IDS"}},
         {"STOP_WORDS_IDS", {TYPE_INT32, {2, -1}, "_STOP_WORDS_IDS"}},
         {"PROMPT_LEARNING_TASK_NAME_IDS", {TYPE_UINT32, {1}, "prompt_learning_task_name_ids"}}}}},
      {kFasterTransformer,
       {kFasterTransformer,
        WithSampling({{"input_ids", {TYPE_UINT32, {-1}, "_INPUT_ID"}},
                      {"input_lengths", {TYPE_UINT32, {1}, "_REQUEST_INPUT_LEN"}},
                      {"request_output_len", {TYPE_UINT32, {-1}, "_REQUEST_OUTPUT_LEN"}},
                      {"bad_words_list", {TYPE_INT32, {2, -1}, "_BAD_WORDS_IDS"}},
                      {"stop_words_list", {TYPE_INT32, {2, -1}, "_STOP_WORDS_IDS"}}}),
        {{"output_ids", {TYPE_UINT32, {-1, -1}, "_TOKENS_BATCH"}},
         {"sequence_length", {TYPE_UINT32, {-1}, "sequence_length"}},
         {"cum_log_probs", {TYPE_FP32, {-1}, "cum_log_probs"}},
         {"output_log_probs", {TYPE_FP32, {-1, -1}, "output_log_probs"}}}}},
      {"postprocessing",
       {"python",
        {{"TOKENS_BATCH", {TYPE_UINT32, {-1, -1}, "_TOKENS_BATCH"}},
         {"sequence_length", {TYPE_UINT32, {-1}, "sequence_length"}}},
        {{"OUTPUT", {TYPE_STRING, {-1, -1}, "OUTPUT_0"}}}}},
      {kEnsemble,
       {kEnsemble,
        WithSampling({{"INPUT_0", {TYPE_STRING, {-1}}},
                      {"INPUT_1", {TYPE_UINT32, {-1}}},
                      {"INPUT_2", {TYPE_STRING, {-1}}},
                      {"INPUT_3", {TYPE_STRING, {-1}}}}),
        {{"OUTPUT_0", {TYPE_STRING, {-1, -1}}},
         {"sequence_length", {TYPE_UINT32, {-1}}},
         {"cum_log_probs", {TYPE_FP32, {-1}}},
         {"output_log_probs", {TYPE_FP32, {-1, -1}}}}}}};
  return models;
}

absl::Status CheckBackend(const inference::ModelConfig& config) {
  const bool is_ensemble = config.platform() == kEnsemble || config.has_ensemble_scheduling();
  const std::string backend = is_ensemble ? kEnsemble : config.backend();
  const std::string& expected = ServedModels().at(config.name()).backend;
  if (backend == expected) return absl::OkStatus();
  return Unsupported(config.name(),
                     absl::StrCat("its backend is '", backend, "'; it is served as ", expected));
}

// All that the configuration allows is served.
template <typename Dims>
bool Covers(const std::vector<int64_t>& served, const Dims& dims) {
  if (static_cast<size_t>(dims.size()) != served.size()) return false;
  for (size_t i = 0; i < served.size(); ++i) {
    if (served[i] >= 0 && dims[static_cast<int>(i)] != served[i]) return false;
  }
  return true;
}

template <typename Tensor>
absl::Status CheckTensor(const std::string& model, const char* what, const Tensor& tensor,
                         const Tensors& served, std::vector<std::string>* warnings) {
  const auto found = served.find(tensor.name());
  if (found == served.end()) {
    return Unsupported(model, absl::StrCat(what, " ", tensor.name(), " is not served"));
  }
  const auto& [type, dims, wired] = found->second;
  if (tensor.data_type() != type) {
    return Unsupported(model, absl::StrCat(what, " ", tensor.name(), " is ",
                                           inference::DataType_Name(tensor.data_type()),
                                           "; it is served as ", inference::DataType_Name(type)));
  }
  if (!Covers(dims, tensor.dims())) {
    warnings->push_back(absl::StrCat(model, ": ", what, " ", tensor.name(), " has dims [",
                                     absl::StrJoin(tensor.dims(), ", "), "]; it is served with [",
                                     absl::StrJoin(dims, ", "), "]"));
  }
  return absl::OkStatus();
}

absl::Status CheckTensors(const inference::ModelConfig& config,
                          std::vector<std::string>* warnings) {
  const ServedModel& served = ServedModels().at(config.name());
  for (const inference::ModelInput& input : config.input()) {
    RETURN_IF_ERROR(CheckTensor(config.name(), "input", input, served.inputs, warnings));
  }
  for (const inference::ModelOutput& output : config.output()) {
    RETURN_IF_ERROR(CheckTensor(config.name(), "output", output, served.outputs, warnings));
  }
  return absl::OkStatus();
}

absl::Status CheckWires(const std::string& step, const char* what, const Tensors& served,
                        const google::protobuf::Map<std::string, std::string>& wires) {
  for (const auto& [tensor, wired] : wires) {
    const auto found = served.find(tensor);
    const std::string known = found == served.end() ? "" : found->second.wired;
    if (known == wired) continue;
    return Unsupported(kEnsemble,
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
    if (name == kEnsemble || !ServedModels().contains(name) || !steps.insert(name).second) {
      return Unsupported(kEnsemble,
                         absl::StrCat("step ", name,
                                      " is not served, or there twice; the steps "
                                      "are preprocessing, fastertransformer and postprocessing"));
    }
    const ServedModel& served = ServedModels().at(name);
    RETURN_IF_ERROR(CheckWires(name, "input", served.inputs, step.input_map()));
    RETURN_IF_ERROR(CheckWires(name, "output", served.outputs, step.output_map()));
  }
  if (steps.size() == 3) return absl::OkStatus();
  return Unsupported(kEnsemble,
                     absl::StrCat("its steps are ", absl::StrJoin(steps, ", "),
                                  "; preprocessing, fastertransformer and postprocessing are "
                                  "served together"));
}

// Why a field has no effect, where that helps: else it just has none.
std::string ReasonOf(const std::string& field) {
  static const auto& reasons = *new std::map<std::string, std::string>{
      {"dynamic_batching", ": requests are batched at every step"},
      {"batch_input", ": requests are batched at every step, whatever their lengths"},
      {"batch_output", ": requests are batched at every step, whatever their lengths"},
      {"input.allow_ragged_batch", ": rows of a batch may have any lengths"},
      {"sequence_batching", ": no model keeps state"},
      {"response_cache", ": prompts share their cached keys and values instead"},
      {"version_policy", ": version 1 is served"},
      {"instance_group.count", ": use --replicas"},
      {"instance_group.kind", ": the worker's --device says where the model runs"},
      {"instance_group.gpus", ": the worker's --device says where the model runs"},
      {"metric_tags", ": metrics have no more labels"},
      {"output.label_filename", ": classes have numbers alone"}};
  const auto found = reasons.find(field);
  return found == reasons.end() ? "" : found->second;
}

// Names the fields of `message` that are set and not in `read`, each once.
void NoteFields(const std::string& model, const std::string& prefix, const Message& message,
                const std::set<std::string>& read, std::vector<std::string>* notes) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (read.contains(field->name())) continue;
    const std::string name = prefix + field->name();
    const std::string note = absl::StrCat(model, ": ", name, " has no effect", ReasonOf(name));
    if (notes->empty() || notes->back() != note) notes->push_back(note);
  }
}

std::set<std::string> FieldsRead(const inference::ModelConfig& config) {
  std::set<std::string> read = {"name",  "platform", "backend",       "max_batch_size",
                                "input", "output",   "instance_group"};
  if (config.name() == kFasterTransformer) {
    read.insert({"parameters", "default_model_filename", "model_transaction_policy"});
  } else if (config.name() == kEnsemble) {
    // The ensemble is decoupled where fastertransformer is.
    read.insert({"ensemble_scheduling", "model_transaction_policy"});
  } else {
    // Said of model.py as a whole.
    read.insert("default_model_filename");
  }
  return read;
}

}  // namespace

std::vector<std::string> ServedTritonModels() {
  std::vector<std::string> names;
  for (const auto& [name, model] : ServedModels()) names.push_back(name);
  return names;
}

absl::Status CheckTritonModel(const inference::ModelConfig& config,
                              std::vector<std::string>* warnings) {
  if (!ServedModels().contains(config.name())) {
    return Unsupported(config.name(),
                       "is not served; ensemble, fastertransformer, preprocessing and "
                       "postprocessing are, under these names");
  }
  RETURN_IF_ERROR(CheckBackend(config));
  RETURN_IF_ERROR(CheckTensors(config, warnings));
  return config.name() == kEnsemble ? CheckEnsemble(config) : absl::OkStatus();
}

void NoteIgnoredFields(const inference::ModelConfig& config, std::vector<std::string>* notes) {
  const std::string& name = config.name();
  NoteFields(name, "", config, FieldsRead(config), notes);
  if (config.backend() == "python") {
    notes->push_back(absl::StrCat(
        name, ": its model.py is not run: the tokenizer service does what the shipped one does"));
  }
  for (const inference::ModelInstanceGroup& group : config.instance_group()) {
    std::set<std::string> read = {"name"};
    if (group.count() <= 1) read.insert("count");
    if (group.kind() == inference::ModelInstanceGroup::KIND_CPU) read.insert("kind");
    NoteFields(name, "instance_group.", group, read, notes);
  }
  for (const inference::ModelInput& input : config.input()) {
    NoteFields(name, "input.", input, {"name", "data_type", "dims", "reshape", "optional"}, notes);
  }
  for (const inference::ModelOutput& output : config.output()) {
    NoteFields(name, "output.", output, {"name", "data_type", "dims", "reshape"}, notes);
  }
  for (const auto& step : config.ensemble_scheduling().step()) {
    NoteFields(name, "ensemble_scheduling.step.", step,
               {"model_name", "model_version", "input_map", "output_map"}, notes);
  }
}

}  // namespace caravan
