#include "gateway/triton/inference_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"
#include "gateway/triton/generation_inference.h"
#include "gateway/triton/tokenizer_inference.h"

namespace caravan {
namespace {

// What the succeeded system's release says of itself; clients compare them.
constexpr char kServerName[] = "triton";
constexpr char kServerVersion[] = "2.33.0";
constexpr uint64_t kMaxInputBytes = 64 << 20;  // of one tensor in shared memory
constexpr size_t kMaxRequestIdBytes = 100;     // leaves room for a row's number

ModelCatalogOptions CatalogOptions(const TritonConfig& config) {
  ModelCatalogOptions options;
  options.decoupled = config.decoupled;
  options.max_batch_size = config.max_batch_size;
  options.tensor_parallel = config.tensor_parallel;
  options.data_type = config.data_type;
  options.checkpoint_path = config.checkpoint_path;
  return options;
}

absl::Status UnknownModel(const std::string& name, const std::string& rest) {
  return absl::NotFoundError(absl::StrCat("Request for unknown model: '", name, "' ", rest));
}

absl::Status CheckVersion(const std::string& name, const std::string& version) {
  if (version.empty()) return absl::OkStatus();
  int64_t number = 0;
  if (!absl::SimpleAtoi(version, &number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("failed to get model version from specified version string '", version,
                     "' (details: stoll), version should be an integral value > 0"));
  }
  if (number == 1 || number == -1) return absl::OkStatus();
  return UnknownModel(name, absl::StrCat("version ", number, " is not found"));
}

absl::Status CheckRepository(const std::string& repository) {
  if (repository.empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model repository '", repository,
                                          "' is not known; leave repository_name empty"));
}

// The client's id where logs can have it.
std::string LoggedId(const InferRequest& request) {
  if (!request.request_id.empty()) return request.request_id;
  const std::string& id = request.id;
  const bool printable =
      std::all_of(id.begin(), id.end(), [](char c) { return c >= ' ' && c <= '~'; });
  return id.empty() || !printable || id.size() > kMaxRequestIdBytes ? MakeRequestId() : id;
}

}  // namespace

InferenceServer::InferenceServer(EventLoop* loop, Dispatcher* dispatcher, GatewayMetrics* metrics,
                                 const TritonConfig& config)
    : dispatcher_(dispatcher),
      config_(config),
      models_(MakeModelCatalog(CatalogOptions(config))),
      shared_memory_(config.shared_memory),
      trace_defaults_(TraceSettings::Off(config.trace_file)),
      trace_(trace_defaults_) {
  const std::vector<std::string>& load = config.load_models;
  for (const TritonModel& model : models_) {
    ModelState& state = states_[model.name];
    state.loaded = !config.explicit_model_control ||
                   std::find(load.begin(), load.end(), model.name) != load.end() ||
                   std::find(load.begin(), load.end(), "*") != load.end();
    state.statistics = std::make_unique<StatisticsCounter>(model.name, kTritonModelVersion);
    if (config.latency_metrics) state.statistics->KeepLatencies();
  }
  context_.loop = loop;
  context_.dispatcher = dispatcher;
  context_.metrics = metrics;
  context_.traces = &trace_writer_;
  context_.defaults = {config.stream_interval, config.stop_on_tokenizer_eos, config.decoupled};
  context_.of_fastertransformer = states_.at("fastertransformer").statistics.get();
  context_.of_preprocessing = states_.at("preprocessing").statistics.get();
  context_.of_postprocessing = states_.at("postprocessing").statistics.get();
}

InferenceServer::~InferenceServer() = default;

std::shared_ptr<const ServedModel> InferenceServer::served() const {
  const std::shared_ptr<const ServedModels> models = dispatcher_->models();
  if (config_.model.empty()) return models->size() == 1 ? models->begin()->second : nullptr;
  const auto found = models->find(config_.model);
  return found == models->end() ? nullptr : found->second;
}

bool InferenceServer::BackendReady(const TritonModel& model) const {
  if (dispatcher_->vocabulary() == nullptr || dispatcher_->draining()) return false;
  if (model.platform == "python") return true;
  const std::shared_ptr<const ServedModel> served = this->served();
  return served != nullptr && dispatcher_->replicas().HasReady(served->name);
}

bool InferenceServer::IsLoaded(const TritonModel& model) const {
  if (model.kind != TritonModelKind::kEnsemble) return states_.at(model.name).loaded;
  return std::all_of(states_.begin(), states_.end(),
                     [](const auto& entry) { return entry.second.loaded; });
}

bool InferenceServer::Ready() const {
  return std::all_of(models_.begin(), models_.end(), [this](const TritonModel& model) {
    return !states_.at(model.name).loaded || BackendReady(model);
  });
}

bool InferenceServer::ModelReady(const std::string& name, const std::string& version) const {
  const absl::StatusOr<const TritonModel*> model = FindModel(name, version);
  return model.ok() && BackendReady(**model);
}

ServerMetadata InferenceServer::Metadata() const {
  return {kServerName,
          kServerVersion,
          {"classification", "model_repository", "model_repository(unload_dependents)",
           "model_configuration", "system_shared_memory", "binary_tensor_data", "parameters",
           "statistics", "trace", "logging"}};
}

const TritonModel* InferenceServer::FindAny(const std::string& name) const {
  const auto found = std::find_if(models_.begin(), models_.end(),
                                  [&](const TritonModel& model) { return model.name == name; });
  return found == models_.end() ? nullptr : &*found;
}

absl::StatusOr<const TritonModel*> InferenceServer::FindModel(const std::string& name,
                                                              const std::string& version) const {
  const TritonModel* model = FindAny(name);
  if (model == nullptr) return UnknownModel(name, "is not found");
  RETURN_IF_ERROR(CheckVersion(name, version));
  if (IsLoaded(*model)) return model;
  const bool itself = states_.at(name).loaded;
  if (version.empty() && !itself) return UnknownModel(name, "has no available versions");
  return absl::UnavailableError(absl::StrCat("Request for unknown model: '", name, "' version ",
                                             kTritonModelVersion, " is not at ready state"));
}

bool InferenceServer::AnswersMoreThanOnce(const std::string& name) const {
  const TritonModel* model = FindAny(name);
  return model != nullptr && model->platform != "python" && config_.decoupled;
}

absl::StatusOr<std::vector<ModelStatistics>> InferenceServer::Statistics(
    const std::string& name, const std::string& version) const {
  std::vector<ModelStatistics> statistics;
  if (!name.empty()) {
    ASSIGN_OR_RETURN(const TritonModel* model, FindModel(name, version));
    statistics.push_back(states_.at(model->name).statistics->Snapshot());
    return statistics;
  }
  for (const auto& [model, state] : states_) {
    if (state.loaded) statistics.push_back(state.statistics->Snapshot());
  }
  return statistics;
}

std::vector<ModelStatistics> InferenceServer::AllStatistics() const {
  std::vector<ModelStatistics> statistics;
  for (const auto& [model, state] : states_) statistics.push_back(state.statistics->Snapshot());
  return statistics;
}

absl::StatusOr<std::vector<ModelIndexEntry>> InferenceServer::RepositoryIndex(
    const std::string& repository, bool ready_only) const {
  RETURN_IF_ERROR(CheckRepository(repository));
  std::vector<ModelIndexEntry> index;
  for (const TritonModel& model : models_) {
    const bool loaded = IsLoaded(model);
    const bool ready = loaded && BackendReady(model);
    if (ready_only && !ready) continue;
    ModelIndexEntry entry;
    entry.name = model.name;
    entry.version = std::string(kTritonModelVersion);
    entry.state = std::string(ready ? "READY" : "UNAVAILABLE");
    if (!loaded) {
      entry.reason =
          states_.at(model.name).loaded ? "a model of the ensemble is not loaded" : "unloaded";
    } else if (!ready) {
      entry.reason = "no replica or no tokenizer is ready";
    }
    index.push_back(std::move(entry));
  }
  return index;
}

absl::Status InferenceServer::CheckControl(const std::string& repository) const {
  if (!config_.explicit_model_control) {
    return absl::UnavailableError(
        "explicit model load / unload is not allowed if polling is enabled");
  }
  return CheckRepository(repository);
}

absl::Status InferenceServer::LoadModel(const std::string& repository, const std::string& name,
                                        const InferParameters& parameters) {
  RETURN_IF_ERROR(CheckControl(repository));
  const TritonModel* model = FindAny(name);
  if (model == nullptr) {
    return absl::InternalError(
        absl::StrCat("failed to load '", name, "', failed to poll from model repository"));
  }
  if (!parameters.empty()) {
    return absl::UnimplementedError(absl::StrCat(
        "failed to load '", name, "': load parameter '", parameters.begin()->first,
        "' is not supported; a model can only be loaded as the gateway is configured"));
  }
  for (auto& [other, state] : states_) {
    if (other == name || model->kind == TritonModelKind::kEnsemble) state.loaded = true;
  }
  LogInfo("loaded", {{"model", name}});
  return absl::OkStatus();
}

absl::Status InferenceServer::UnloadModel(const std::string& repository, const std::string& name,
                                          bool unload_dependents) {
  RETURN_IF_ERROR(CheckControl(repository));
  const TritonModel* model = FindAny(name);
  if (model == nullptr) return UnknownModel(name, "is not found");
  const bool all = unload_dependents && model->kind == TritonModelKind::kEnsemble;
  for (auto& [other, state] : states_) {
    if (other == name || all) state.loaded = false;
  }
  LogInfo("unloaded", {{"model", name}, {"dependents", all}});
  return absl::OkStatus();
}

absl::Status InferenceServer::CudaSharedMemoryUnsupported() {
  return absl::UnimplementedError(
      "CUDA shared memory is not supported: the gateway has no GPU; use system shared memory");
}

absl::StatusOr<TraceSettingValues> InferenceServer::UpdateTraceSettings(
    const std::string& model, const TraceSettingValues& changes) {
  if (!model.empty() && FindAny(model) == nullptr) return UnknownModel(model, "is not found");
  TraceScope scope = trace_;
  if (!model.empty()) {
    const auto own = model_traces_.find(model);
    scope = own == model_traces_.end() ? TraceScope(trace_.settings()) : own->second;
  }
  if (changes.empty()) return scope.settings().ToValues();
  RETURN_IF_ERROR(scope.Change(changes, model.empty() ? trace_defaults_ : trace_.settings()));
  const TraceSettingValues values = scope.settings().ToValues();
  if (model.empty()) {
    trace_ = std::move(scope);
    for (auto& [name, below] : model_traces_) below.Follow(trace_.settings());
  } else if (scope.has_own()) {
    model_traces_.insert_or_assign(model, std::move(scope));
  } else {
    model_traces_.erase(model);
  }
  return values;
}

absl::StatusOr<LogSettingValues> InferenceServer::UpdateLogSettings(
    const LogSettingValues& changes) {
  ASSIGN_OR_RETURN(log_settings_, LogSettings::Apply(changes, log_settings_));
  if (!changes.empty()) {
    SwitchLog({log_settings_.info, log_settings_.warning, log_settings_.error,
               log_settings_.verbose_level > 0});
  }
  return log_settings_.ToValues();
}

std::shared_ptr<RequestTrace> InferenceServer::SampleTrace(const CheckedRequest& request) {
  const auto own = model_traces_.find(request.model().name);
  TraceScope& scope = own == model_traces_.end() ? trace_ : own->second;
  std::shared_ptr<RequestTrace> trace = trace_writer_.Sample(&scope);
  if (trace == nullptr) return nullptr;
  trace->model_name = request.model().name;
  trace->model_version = std::string(kTritonModelVersion);
  trace->request_id = request.request().id;
  for (const TensorSpec& spec : request.model().inputs) {
    if (const CheckedInput* input = request.Find(spec.name)) {
      trace->AddTensor("TENSOR_QUEUE_INPUT", spec.name, *input);
    }
  }
  return trace;
}

absl::StatusOr<std::string> InferenceServer::Read(const SharedMemoryUse& use) const {
  ASSIGN_OR_RETURN(const SharedMemoryRegistry::Region region, shared_memory_.Find(use.region));
  if (use.byte_size > kMaxInputBytes) {
    return absl::InvalidArgumentError(absl::StrCat("shared_memory_byte_size is ", use.byte_size,
                                                   "; it must be at most ", kMaxInputBytes));
  }
  return region->Read(use.offset, use.byte_size);
}

absl::StatusOr<std::shared_ptr<Inference>> InferenceServer::Infer(InferRequest request,
                                                                  InferSink* sink) {
  ASSIGN_OR_RETURN(const TritonModel* model, FindModel(request.model_name, request.model_version));
  request.request_id = LoggedId(request);
  InferCall call;
  call.served = served();
  if (call.served == nullptr) {
    return absl::UnavailableError(
        dispatcher_->models()->empty()
            ? "no replica has been reached yet; retry in a moment"
            : "several models are served, or not this one; start the gateway with --triton_model");
  }
  ASSIGN_OR_RETURN(call.request,
                   CheckRequest(*model, config_.max_batch_size, std::move(request),
                                [this](const SharedMemoryUse& use) { return Read(use); }));
  for (const InferRequestedOutput& output : call.request.request().outputs) {
    const SharedMemoryUse* place = call.request.PlaceOf(output.name);
    if (place == nullptr) continue;
    ASSIGN_OR_RETURN(call.places[output.name], shared_memory_.Find(place->region));
  }
  call.statistics = states_.at(model->name).statistics.get();
  return Begin(std::move(call), sink);
}

// What FasterTransformer would have failed with while it ran: a failure of its model, too.
void InferenceServer::CountRefusal(const InferCall& call, const absl::Status& status) {
  const auto total = EventLoop::Clock::now() - call.request.request().arrival;
  call.statistics->AddFailure(status, total);
  if (call.request.model().kind == TritonModelKind::kEnsemble) {
    context_.of_fastertransformer->AddFailure(status, total);
  }
}

absl::StatusOr<std::shared_ptr<Inference>> InferenceServer::Begin(InferCall call, InferSink* sink) {
  const TritonModelKind kind = call.request.model().kind;
  if (kind == TritonModelKind::kPreprocessing || kind == TritonModelKind::kPostprocessing) {
    call.trace = SampleTrace(call.request);
    auto inference = std::make_shared<TokenizerInference>(&context_, std::move(call), sink);
    inference->Start();
    return inference;
  }
  absl::StatusOr<GenerationParameters> parameters =
      ReadGenerationParameters(call.request, *call.served, context_.defaults);
  if (!parameters.ok()) {
    CountRefusal(call, parameters.status());
    return parameters.status();
  }
  call.trace = SampleTrace(call.request);
  auto inference = std::make_shared<GenerationInference>(&context_, std::move(call),
                                                         *std::move(parameters), sink);
  inference->Start();
  return inference;
}

}  // namespace caravan
