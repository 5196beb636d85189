// Triton Inference Server's API, whatever the front door: gRPC and HTTP translate into this, and
// nothing else.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/config.h"
#include "gateway/event_loop.h"
#include "gateway/generation/dispatcher.h"
#include "gateway/triton/cuda_shared_memory.h"
#include "gateway/triton/infer_context.h"
#include "gateway/triton/inference.h"
#include "gateway/triton/model_repository.h"
#include "gateway/triton/protocol/infer_message.h"
#include "gateway/triton/protocol/model_catalog.h"
#include "gateway/triton/settings.h"
#include "gateway/triton/shared_memory.h"
#include "gateway/triton/statistics.h"
#include "gateway/triton/trace.h"

namespace caravan {

struct ServerMetadata {
  std::string name;
  std::string version;
  std::vector<std::string> extensions;
};

struct ModelIndexEntry {
  std::string name;
  std::string version;
  std::string state;  // READY, UNAVAILABLE, …
  std::string reason;
};

// Loop thread only, but for what says "any thread"; constructed and destroyed on the loop. Errors
// are Triton's, code and text.
class InferenceServer {
 public:
  InferenceServer(EventLoop* loop, Dispatcher* dispatcher, GatewayMetrics* metrics,
                  const TritonConfig& config);
  ~InferenceServer();

  bool Live() const { return true; }
  // Every loaded model can answer: a replica is ready and a tokenizer was reached.
  bool Ready() const;
  // False also for a model or version that does not exist.
  bool ModelReady(const std::string& name, const std::string& version) const;
  ServerMetadata Metadata() const;  // any thread

  // A model that is loaded. NOT_FOUND for an unknown model or version, and for one not loaded;
  // INVALID_ARGUMENT for a version that is no number. The pointer lives as long as the server.
  absl::StatusOr<const TritonModel*> FindModel(const std::string& name,
                                               const std::string& version) const;
  // Streaming requests to this model have partial responses, and may be answered out of order. Any
  // thread.
  bool AnswersMoreThanOnce(const std::string& name) const;
  // All, loaded or not. Any thread.
  const std::vector<TritonModel>& models() const { return models_; }

  // Of one model, or of all that are loaded where the name is empty.
  absl::StatusOr<std::vector<ModelStatistics>> Statistics(const std::string& name,
                                                          const std::string& version) const;
  // Of all models, loaded or not: for metrics. Any thread.
  std::vector<ModelStatistics> AllStatistics() const;
  // Of a model of models(): nullptr where none are kept. Any thread.
  const LatencyMetrics* Latencies(const std::string& model) const {
    return statistics_.at(model)->latencies();
  }

  // `repository` is one that the index names: the empty name is all there is (NOT_FOUND).
  absl::StatusOr<std::vector<ModelIndexEntry>> RepositoryIndex(const std::string& repository,
                                                               bool ready_only) const;
  // What loads and unloads models.
  ModelRepository& repository() { return repository_; }

  SharedMemoryRegistry& shared_memory() { return shared_memory_; }
  // Empty: all. NOT_FOUND for an unknown name.
  absl::StatusOr<std::vector<std::shared_ptr<const SystemSharedMemoryRegion>>> SystemMemoryStatus(
      const std::string& name) const;
  // `done` is called on the loop. UNIMPLEMENTED where the gateway has no GPU; see
  // CudaSharedMemory::Open.
  void RegisterCudaMemory(const std::string& name, const std::string& raw_handle, int64_t device_id,
                          uint64_t byte_size, std::function<void(const absl::Status&)> done);
  // Empty: all, which is none without a GPU. A named one is UNIMPLEMENTED then, else NOT_FOUND
  // where there is none.
  absl::StatusOr<std::vector<std::shared_ptr<const CudaSharedMemoryRegion>>> CudaMemoryStatus(
      const std::string& name) const;

  // Changes what `changes` names and returns all. `model` empty: the settings of all models, but
  // for what a model has of its own; NOT_FOUND for an unknown model.
  absl::StatusOr<TraceSettingValues> UpdateTraceSettings(const std::string& model,
                                                         const TraceSettingValues& changes);
  absl::StatusOr<LogSettingValues> UpdateLogSettings(const LogSettingValues& changes);

  // Begins a request. An error that is known at once is returned; later ones, and all responses,
  // come through the inference. `sink` lives until it is told that the inference ended, or until
  // the inference is cancelled or dropped; it is not called from inside Infer.
  absl::StatusOr<std::shared_ptr<Inference>> Infer(InferRequest request, InferSink* sink);

 private:
  // The model behind all of them; nullptr: none was reached, or it is not clear which.
  std::shared_ptr<const ServedModel> served() const;
  bool BackendReady(const TritonModel& model) const;
  absl::StatusOr<std::string> Read(const SharedMemoryUse& use) const;
  std::shared_ptr<RequestTrace> SampleTrace(const CheckedRequest& request);
  void CountRefusal(const InferCall& call, const absl::Status& status);
  absl::StatusOr<std::shared_ptr<Inference>> InferWith(const TritonModel& model,
                                                       InferRequest request, InferSink* sink);
  absl::StatusOr<std::shared_ptr<Inference>> Begin(InferCall call, InferSink* sink);

  EventLoop* const loop_;
  Dispatcher* const dispatcher_;
  const TritonConfig config_;
  const std::vector<TritonModel> models_;
  ModelRepository repository_;
  std::map<std::string, std::unique_ptr<StatisticsCounter>> statistics_;  // keys never change
  CudaSharedMemory cuda_memory_;                                          // before its regions
  SharedMemoryRegistry shared_memory_;
  TraceWriter trace_writer_;
  const TraceSettings trace_defaults_;
  TraceScope trace_;  // of models without settings of their own
  std::map<std::string, TraceScope> model_traces_;
  LogSettings log_settings_;
  InferContext context_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for tasks that come late
};

}  // namespace caravan
