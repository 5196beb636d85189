#include "gateway/triton/protocol/model_catalog.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/triton/protocol/infer_message.h"

namespace caravan {
namespace {

TensorSpec Required(const char* name, DataType datatype, Shape dims = {-1}) {
  TensorSpec spec;
  spec.name = name;
  spec.datatype = datatype;
  spec.dims = std::move(dims);
  return spec;
}

TensorSpec Optional(const char* name, DataType datatype, Shape dims = {-1}) {
  TensorSpec spec = Required(name, datatype, std::move(dims));
  spec.optional = true;
  return spec;
}

// `dims: [1] reshape { shape: [] }`, optional.
TensorSpec Scalar(const char* name, DataType datatype) {
  TensorSpec spec = Optional(name, datatype, {1});
  spec.scalar = true;
  return spec;
}

TensorSpec Hidden(TensorSpec spec) {
  spec.hidden = true;
  return spec;
}

TensorSpec AnyInteger(const char* name) {
  TensorSpec spec = Hidden(Scalar(name, DataType::kInt32));
  spec.any_integer = true;
  return spec;
}

// The sampling tensors, in the order of the ensemble's configuration. FasterTransformer's has the
// same ones in another order, which no client can tell.
void AddSamplingInputs(std::vector<TensorSpec>* inputs) {
  for (TensorSpec& spec : std::vector<TensorSpec>{
           Scalar("runtime_top_k", DataType::kUint32),
           Scalar("runtime_top_p", DataType::kFp32),
           Scalar("beam_search_diversity_rate", DataType::kFp32),
           Scalar("temperature", DataType::kFp32),
           Scalar("len_penalty", DataType::kFp32),
           Scalar("repetition_penalty", DataType::kFp32),
           Scalar("random_seed", DataType::kUint64),
           Scalar("is_return_log_probs", DataType::kBool),
           Scalar("beam_width", DataType::kUint32),
           Scalar("start_id", DataType::kUint32),
           Scalar("end_id", DataType::kUint32),
           Scalar("prompt_learning_task_name_ids", DataType::kUint32),
           Scalar("top_p_decay", DataType::kFp32),
           Scalar("top_p_min", DataType::kFp32),
           Scalar("top_p_reset_ids", DataType::kUint32),
           Hidden(Scalar("min_length", DataType::kUint32)),
           Hidden(Scalar("presence_penalty", DataType::kFp32)),
           Hidden(Scalar("frequency_penalty", DataType::kFp32)),
           Hidden(Scalar(kExcludeInput, DataType::kBool)),
       }) {
    inputs->push_back(std::move(spec));
  }
}

void AddSamplingOutputs(std::vector<TensorSpec>* outputs) {
  outputs->push_back(Required("sequence_length", DataType::kUint32));
  outputs->push_back(Required("cum_log_probs", DataType::kFp32));
  outputs->push_back(Required("output_log_probs", DataType::kFp32, {-1, -1}));
}

// What clients of newer Triton LLM models call the same things.
void AddNewerNames(TritonModel* model) {
  for (TensorSpec& spec : std::vector<TensorSpec>{
           Hidden(Scalar("text_input", DataType::kBytes)),
           AnyInteger("max_tokens"),
           Hidden(Scalar("stream", DataType::kBool)),
           Hidden(Optional("bad_words", DataType::kBytes)),
           Hidden(Optional("stop_words", DataType::kBytes)),
           AnyInteger("top_k"),
           Hidden(Scalar("top_p", DataType::kFp32)),
           Hidden(Scalar("length_penalty", DataType::kFp32)),
           AnyInteger("min_tokens"),
           AnyInteger("seed"),
           Hidden(Scalar("return_log_probs", DataType::kBool)),
       }) {
    model->inputs.push_back(std::move(spec));
  }
  model->outputs.push_back(Hidden(Required("text_output", DataType::kBytes)));
}

TritonModel MakeEnsemble() {
  TritonModel model;
  model.kind = TritonModelKind::kEnsemble;
  model.name = "ensemble";
  model.platform = "ensemble";
  model.inputs = {Required("INPUT_0", DataType::kBytes), Required("INPUT_1", DataType::kUint32),
                  Required("INPUT_2", DataType::kBytes), Required("INPUT_3", DataType::kBytes)};
  AddSamplingInputs(&model.inputs);
  model.outputs = {Required("OUTPUT_0", DataType::kBytes, {-1, -1})};
  AddSamplingOutputs(&model.outputs);
  AddNewerNames(&model);
  return model;
}

TritonModel MakeFasterTransformer() {
  TritonModel model;
  model.kind = TritonModelKind::kFasterTransformer;
  model.name = "fastertransformer";
  model.platform = "fastertransformer";
  TensorSpec lengths = Required("input_lengths", DataType::kUint32, {1});
  lengths.scalar = true;
  model.inputs = {Required("input_ids", DataType::kUint32), std::move(lengths),
                  Required("request_output_len", DataType::kUint32),
                  Optional("bad_words_list", DataType::kInt32, {2, -1}),
                  Optional("stop_words_list", DataType::kInt32, {2, -1})};
  AddSamplingInputs(&model.inputs);
  model.outputs = {Required("output_ids", DataType::kUint32, {-1, -1})};
  AddSamplingOutputs(&model.outputs);
  return model;
}

TritonModel MakePreprocessing() {
  TritonModel model;
  model.kind = TritonModelKind::kPreprocessing;
  model.name = "preprocessing";
  model.platform = "python";
  model.inputs = {Required("QUERY", DataType::kBytes), Optional("BAD_WORDS_DICT", DataType::kBytes),
                  Optional("STOP_WORDS_DICT", DataType::kBytes),
                  Required("REQUEST_OUTPUT_LEN", DataType::kUint32)};
  model.outputs = {Required("INPUT_ID", DataType::kUint32),
                   Required("REQUEST_INPUT_LEN", DataType::kUint32, {1}),
                   Required("BAD_WORDS_IDS", DataType::kInt32, {2, -1}),
                   Required("STOP_WORDS_IDS", DataType::kInt32, {2, -1}),
                   Required("REQUEST_OUTPUT_LEN", DataType::kUint32),
                   Required("PROMPT_LEARNING_TASK_NAME_IDS", DataType::kUint32, {1})};
  return model;
}

TritonModel MakePostprocessing() {
  TritonModel model;
  model.kind = TritonModelKind::kPostprocessing;
  model.name = "postprocessing";
  model.platform = "python";
  model.inputs = {Required("TOKENS_BATCH", DataType::kUint32, {-1, -1}),
                  Required("sequence_length", DataType::kUint32)};
  model.outputs = {Required("OUTPUT", DataType::kBytes, {-1, -1})};
  return model;
}

using Wiring = std::vector<std::pair<std::string, std::string>>;

void AddStep(const char* model, const Wiring& inputs, const Wiring& outputs,
             inference::ModelEnsembling* ensembling) {
  inference::ModelEnsembling::Step* step = ensembling->add_step();
  step->set_model_name(model);
  step->set_model_version(-1);
  for (const auto& [of_model, of_ensemble] : inputs) {
    (*step->mutable_input_map())[of_model] = of_ensemble;
  }
  for (const auto& [of_model, of_ensemble] : outputs) {
    (*step->mutable_output_map())[of_model] = of_ensemble;
  }
}

void ConfigureEnsemble(const TritonModel& model, inference::ModelConfig* config) {
  config->set_platform("ensemble");
  inference::ModelEnsembling* ensembling = config->mutable_ensemble_scheduling();
  AddStep("preprocessing",
          {{"QUERY", "INPUT_0"},
           {"REQUEST_OUTPUT_LEN", "INPUT_1"},
           {"BAD_WORDS_DICT", "INPUT_2"},
           {"STOP_WORDS_DICT", "INPUT_3"}},
          {{"INPUT_ID", "_INPUT_ID"},
           {"REQUEST_INPUT_LEN", "_REQUEST_INPUT_LEN"},
           {"REQUEST_OUTPUT_LEN", "_REQUEST_OUTPUT_LEN"},
           {"BAD_WORDS_IDS", "_BAD_WORDS_IDS"},
           {"STOP_WORDS_IDS", "_STOP_WORDS_IDS"}},
          ensembling);
  Wiring inputs = {{"input_ids", "_INPUT_ID"},
                   {"input_lengths", "_REQUEST_INPUT_LEN"},
                   {"request_output_len", "_REQUEST_OUTPUT_LEN"},
                   {"bad_words_list", "_BAD_WORDS_IDS"},
                   {"stop_words_list", "_STOP_WORDS_IDS"}};
  for (const TensorSpec& input : model.inputs) {
    if (input.optional && !input.hidden) inputs.emplace_back(input.name, input.name);
  }
  AddStep("fastertransformer", inputs,
          {{"output_ids", "_TOKENS_BATCH"},
           {"sequence_length", "sequence_length"},
           {"cum_log_probs", "cum_log_probs"},
           {"output_log_probs", "output_log_probs"}},
          ensembling);
  AddStep("postprocessing",
          {{"TOKENS_BATCH", "_TOKENS_BATCH"}, {"sequence_length", "sequence_length"}},
          {{"OUTPUT", "OUTPUT_0"}}, ensembling);
}

void Configure(const ModelCatalogOptions& options, TritonModel* model) {
  inference::ModelConfig* config = &model->config;
  config->set_name(model->name);
  config->mutable_version_policy()->mutable_latest()->set_num_versions(1);
  config->set_max_batch_size(options.max_batch_size);
  for (const TensorSpec& spec : model->inputs) {
    if (spec.hidden) continue;
    inference::ModelInput* input = config->add_input();
    input->set_name(spec.name);
    input->set_data_type(static_cast<inference::DataType>(spec.datatype));
    input->mutable_dims()->Assign(spec.dims.begin(), spec.dims.end());
    if (spec.scalar && model->kind == TritonModelKind::kFasterTransformer) input->mutable_reshape();
    input->set_optional(spec.optional);
  }
  for (const TensorSpec& spec : model->outputs) {
    if (spec.hidden) continue;
    inference::ModelOutput* output = config->add_output();
    output->set_name(spec.name);
    output->set_data_type(static_cast<inference::DataType>(spec.datatype));
    output->mutable_dims()->Assign(spec.dims.begin(), spec.dims.end());
  }
  if (model->kind == TritonModelKind::kEnsemble) {
    ConfigureEnsemble(*model, config);
    config->mutable_model_transaction_policy()->set_decoupled(options.decoupled);
    return;
  }
  config->set_backend(model->platform);
  inference::ModelInstanceGroup* group = config->add_instance_group();
  group->set_name(absl::StrCat(model->name, "_0"));
  group->set_count(1);
  group->set_kind(inference::ModelInstanceGroup::KIND_CPU);
  if (model->kind != TritonModelKind::kFasterTransformer) {
    config->set_default_model_filename("model.py");
    return;
  }
  config->set_default_model_filename("llama");
  config->mutable_model_transaction_policy()->set_decoupled(options.decoupled);
  const std::pair<const char*, std::string> parameters[] = {
      {"tensor_para_size", std::to_string(options.tensor_parallel)},
      {"pipeline_para_size", "1"},
      {"data_type", options.data_type},
      {"model_type", "Llama"},
      {"model_checkpoint_path", options.checkpoint_path},
      {"enable_custom_all_reduce", "0"}};
  for (const auto& [key, value] : parameters) {
    (*config->mutable_parameters())[key].set_string_value(value);
  }
}

const TensorSpec* Find(const std::vector<TensorSpec>& specs, std::string_view name) {
  const auto found = std::find_if(specs.begin(), specs.end(),
                                  [name](const TensorSpec& spec) { return spec.name == name; });
  return found == specs.end() ? nullptr : &*found;
}

}  // namespace

const TensorSpec* TritonModel::FindInput(std::string_view input) const {
  return Find(inputs, input);
}

const TensorSpec* TritonModel::FindOutput(std::string_view output) const {
  return Find(outputs, output);
}

Shape WireShape(const TensorSpec& tensor) {
  Shape shape = {-1};
  shape.insert(shape.end(), tensor.dims.begin(), tensor.dims.end());
  return shape;
}

std::vector<TritonModel> MakeModelCatalog(const ModelCatalogOptions& options) {
  std::vector<TritonModel> models;
  models.push_back(MakeEnsemble());
  models.push_back(MakeFasterTransformer());
  models.push_back(MakePostprocessing());
  models.push_back(MakePreprocessing());
  for (TritonModel& model : models) Configure(options, &model);
  return models;
}

}  // namespace caravan
