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

std::string IndexStateOf(const ModelState& state) {
  if (state.phase == ModelState::Phase::kLoading) return "LOADING";
  return state.phase == ModelState::Phase::kUnloading ? "UNLOADING" : "UNAVAILABLE";
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
    : loop_(loop),
      dispatcher_(dispatcher),
      config_(config),
      models_(MakeModelCatalog(CatalogOptions(config))),
      repository_(&models_, config, &dispatcher->replicas().commands()),
      shared_memory_(config.shared_memory),
      trace_defaults_(TraceSettings::Off(config.trace_file)),
      trace_(trace_defaults_) {
  for (const TritonModel& model : models_) {
    std::unique_ptr<StatisticsCounter>& statistics = statistics_[model.name];
    statistics = std::make_unique<StatisticsCounter>(model.name, kTritonModelVersion);
    if (config.latency_metrics) statistics->KeepLatencies();
  }
  context_.loop = loop;
  context_.dispatcher = dispatcher;
  context_.metrics = metrics;
  context_.traces = &trace_writer_;
  context_.defaults = {config.stream_interval, config.stop_on_tokenizer_eos, config.decoupled};
  context_.of_fastertransformer = statistics_.at("fastertransformer").get();
  context_.of_preprocessing = statistics_.at("preprocessing").get();
  context_.of_postprocessing = statistics_.at("postprocessing").get();
}

InferenceServer::~InferenceServer() = default;

std::shared_ptr<const ServedModel> InferenceServer::served() const {
  const std::shared_ptr<const ServedModels> models = dispatcher_->models();
  if (config_.model.empty()) return models->size() == 1 ? models->begin()->second : nullptr;
  const auto found = models->find(config_.model);
  return found == models->end() ? nullptr : found->second;
}

bool InferenceServer::BackendReady(const TritonModel& model) const {
  if (!dispatcher_->tokenizer().connected() || dispatcher_->draining()) return false;
  if (model.platform == "python") return true;
  const std::shared_ptr<const ServedModel> served = this->served();
  return served != nullptr && dispatcher_->replicas().HasReady(served->name);
}

bool InferenceServer::Ready() const {
  return std::all_of(models_.begin(), models_.end(), [this](const TritonModel& model) {
    return !repository_.IsLoaded(model) || BackendReady(model);
  });
}

bool InferenceServer::ModelReady(const std::string& name, const std::string& version) const {
  const absl::StatusOr<const TritonModel*> model = FindModel(name, version);
  return model.ok() && BackendReady(**model);
}

ServerMetadata InferenceServer::Metadata() const {
  ServerMetadata metadata = {
      kServerName,
      kServerVersion,
      {"classification", "model_repository", "model_repository(unload_dependents)",
       "model_configuration", "system_shared_memory", "binary_tensor_data", "parameters",
       "statistics", "trace", "logging"}};
  if (cuda_memory_.available()) metadata.extensions.emplace_back("cuda_shared_memory");
  return metadata;
}

absl::StatusOr<const TritonModel*> InferenceServer::FindModel(const std::string& name,
                                                              const std::string& version) const {
  const TritonModel* model = repository_.Find(name);
  if (model == nullptr) return UnknownModel(name, "is not found");
  RETURN_IF_ERROR(CheckVersion(name, version));
  if (repository_.IsLoaded(*model)) return model;
  if (version.empty() && !repository_.IsOpen(*model)) {
    return UnknownModel(name, "has no available versions");
  }
  return absl::UnavailableError(absl::StrCat("Request for unknown model: '", name, "' version ",
                                             kTritonModelVersion, " is not at ready state"));
}

bool InferenceServer::AnswersMoreThanOnce(const std::string& name) const {
  const TritonModel* model = repository_.Find(name);
  return model != nullptr && model->platform != "python" && config_.decoupled;
}

absl::StatusOr<std::vector<ModelStatistics>> InferenceServer::Statistics(
    const std::string& name, const std::string& version) const {
  std::vector<ModelStatistics> statistics;
  if (!name.empty()) {
    ASSIGN_OR_RETURN(const TritonModel* model, FindModel(name, version));
    statistics.push_back(statistics_.at(model->name)->Snapshot());
    return statistics;
  }
  for (const auto& [model, counter] : statistics_) {
    if (repository_.IsOpen(*repository_.Find(model))) statistics.push_back(counter->Snapshot());
  }
  return statistics;
}

std::vector<ModelStatistics> InferenceServer::AllStatistics() const {
  std::vector<ModelStatistics> statistics;
  for (const auto& [model, counter] : statistics_) statistics.push_back(counter->Snapshot());
  return statistics;
}

absl::StatusOr<std::vector<ModelIndexEntry>> InferenceServer::RepositoryIndex(
    const std::string& repository, bool ready_only) const {
  RETURN_IF_ERROR(CheckRepository(repository));
  std::vector<ModelIndexEntry> index;
  for (const TritonModel& model : models_) {
    const bool loaded = repository_.IsLoaded(model);
    const bool ready = loaded && BackendReady(model);
    if (ready_only && !ready) continue;
    const ModelState itself = repository_.StateOf(model);
    ModelIndexEntry entry;
    entry.name = model.name;
    entry.version = std::string(kTritonModelVersion);
    entry.state = ready ? "READY" : IndexStateOf(itself);
    if (!loaded) {
      entry.reason = itself.phase == ModelState::Phase::kLoaded
                         ? "a model of the ensemble is not loaded"
                         : itself.reason;
    } else if (!ready) {
      entry.reason = "no replica or no tokenizer is ready";
    }
    index.push_back(std::move(entry));
  }
  return index;
}

void InferenceServer::RegisterCudaMemory(const std::string& name, const std::string& raw_handle,
                                         int64_t device_id, uint64_t byte_size,
                                         std::function<void(const absl::Status&)> done) {
  if (const absl::Status status = shared_memory_.CheckNew(name, byte_size); !status.ok()) {
    return done(status);
  }
  const std::weak_ptr<bool> alive = alive_;
  cuda_memory_.Open(name, raw_handle, device_id, byte_size,
                    [this, loop = loop_, alive,
                     done = std::move(done)](absl::StatusOr<CudaSharedMemory::Region> region) {
                      loop->Post([this, alive, done, region = std::move(region)] {
                        if (alive.expired()) return;
                        done(region.ok() ? shared_memory_.Add(*region) : region.status());
                      });
                    });
}

absl::StatusOr<std::vector<std::shared_ptr<const SystemSharedMemoryRegion>>>
InferenceServer::SystemMemoryStatus(const std::string& name) const {
  return shared_memory_.Status<SystemSharedMemoryRegion>(SharedMemoryKind::kSystem, name);
}

absl::StatusOr<std::vector<std::shared_ptr<const CudaSharedMemoryRegion>>>
InferenceServer::CudaMemoryStatus(const std::string& name) const {
  if (!cuda_memory_.available() && !name.empty()) {
    return absl::UnimplementedError(
        "CUDA shared memory is not supported: the gateway has no GPU; use system shared memory");
  }
  return shared_memory_.Status<CudaSharedMemoryRegion>(SharedMemoryKind::kCuda, name);
}

absl::StatusOr<TraceSettingValues> InferenceServer::UpdateTraceSettings(
    const std::string& model, const TraceSettingValues& changes) {
  if (!model.empty() && repository_.Find(model) == nullptr) {
    return UnknownModel(model, "is not found");
  }
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
  const std::string id = request.id;
  auto inference = InferWith(*model, std::move(request), sink);
  if (!inference.ok()) return WithRequestId(id, inference.status());
  return inference;
}

absl::StatusOr<std::shared_ptr<Inference>> InferenceServer::InferWith(const TritonModel& model,
                                                                      InferRequest request,
                                                                      InferSink* sink) {
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
                   CheckRequest(model, config_.max_batch_size, std::move(request),
                                [this](const SharedMemoryUse& use) { return Read(use); }));
  for (const InferRequestedOutput& output : call.request.request().outputs) {
    const SharedMemoryUse* place = call.request.PlaceOf(output.name);
    if (place == nullptr) continue;
    const absl::StatusOr<SharedMemoryRegistry::Region> region = shared_memory_.Find(place->region);
    const absl::Status status =
        region.ok() ? (*region)->CheckRange(place->offset, place->byte_size) : region.status();
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("output '", output.name, "': ", status.message()));
    }
    call.places[output.name] = *region;
  }
  call.statistics = statistics_.at(model.name).get();
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
