#include "worker/process.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/port_file.h"
#include "common/status.h"
#include "kernels/cpu_backend.h"
#include "worker/build_version.h"
#include "worker/model/loading/load_llama.h"
#include "worker/model/runner/gpu_memory_plan.h"

namespace caravan {
namespace {

constexpr absl::Duration kProgressInterval = absl::Seconds(1);
constexpr int64_t kContextBytes = int64_t{1} << 30;  // CUDA's own and our workspace, at most

// Ranks of one host share its cores.
void ChooseThreads(const WorkerConfig& config) {
  if (config.cpu_threads > 0) {
    SetCpuThreads(config.cpu_threads);
  } else if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    SetCpuThreads(std::max(1, cores / config.tensor_parallel));
  }
}

// As many blocks as kv_cache_bytes hold; chosen by ourselves, no more than the running sequences
// can fill, since block tables cost memory and time too.
LlamaRunnerOptions RunnerOptions(const WorkerConfig& config, const LlamaSource& source) {
  LlamaRunnerOptions options;
  options.gpu_memory_fraction = config.gpu_memory_fraction;
  options.cuda_graphs = config.cuda_graphs;
  options.block_tokens = config.block_tokens;
  options.kv_cache_bytes = config.kv_cache_bytes;
  options.max_slots = config.max_running_sequences;
  options.max_steps_in_flight = config.pipelined ? config.pipeline_depth : 1;
  if (config.kv_cache_bytes > 0) return options;
  const int64_t context_blocks =
      (int64_t{source.max_context_tokens} + config.block_tokens - 1) / config.block_tokens;
  const int64_t most = std::min<int64_t>(context_blocks * config.max_running_sequences,
                                         std::numeric_limits<int32_t>::max());
  options.max_blocks = static_cast<int32_t>(most);
  if (config.device == "cuda") return options;
  const int64_t block_bytes =
      KvBlockBytes(source.config, source.layout, config.block_tokens, source.dtype);
  const int64_t fitting = DefaultKvCacheBytes(config.tensor_parallel) / block_bytes;
  options.num_blocks = static_cast<int32_t>(std::clamp(fitting, int64_t{1}, most));
  return options;
}

// Waits for the budget that --gpu_memory_fraction gives, and goes on with less where that is
// enough for the start.
absl::Status AwaitGpuMemory(const WorkerConfig& config, const WorkerDevice& device,
                            const std::vector<MemoryNeed>& needs) {
  if (device.cuda() == nullptr) return absl::OkStatus();
  const auto total = static_cast<double>(device.use().total_bytes);
  const auto budget = static_cast<int64_t>(total * config.gpu_memory_fraction);
  int64_t wanted =
      TotalBytes(needs) + (device.use().total_bytes - budget);  // CheckGpuMemory's rule
  if (config.kv_cache_bytes == 0) wanted = std::max(wanted, budget - kContextBytes);
  device.AwaitMemory(wanted, absl::Now() + absl::Milliseconds(config.gpu_memory_wait_ms));
  return CheckGpuMemory(device.use().name, needs, QueryDeviceMemory(), config.gpu_memory_fraction,
                        FindGpuProcesses(device.cuda()->device().pci_bus_id));
}

class LoadReporter {
 public:
  explicit LoadReporter(WorkerService* service) : service_(service) {}

  void operator()(int64_t done_bytes, int64_t total_bytes) {
    service_->ReportLoad(done_bytes, total_bytes);
    const absl::Time now = absl::Now();
    if (done_bytes < total_bytes && now - last_ < kProgressInterval) return;
    last_ = now;
    const double seconds = absl::ToDoubleSeconds(now - start_);
    const auto done = static_cast<double>(done_bytes);
    LogInfo("loading", {{"percent", 100 * done / std::max(1.0, static_cast<double>(total_bytes))},
                        {"bytes", done_bytes},
                        {"gb_per_second", seconds > 0 ? done / seconds / 1e9 : 0}});
  }

 private:
  WorkerService* const service_;
  const absl::Time start_ = absl::Now();
  absl::Time last_ = absl::Now();
};

}  // namespace

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t pages = 0;
  file >> pages >> pages;  // the second number
  return file ? pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

std::string BuildVersion(const WorkerConfig& config) {
  const bool graphs = config.device == "cuda" && config.cuda_graphs;
  return absl::StrCat(kBuildVersion, graphs ? " --cuda_graphs" : "",
                      config.batch_invariant ? " --batch_invariant" : "");
}

WorkerContext::WorkerContext(const WorkerConfig& config, ShutdownSignal* signal)
    : config(config),
      signal(signal),
      instance(RandomId()),
      metrics(&registry, config.tensor_parallel) {}

absl::Status WorkerServer::Start(const WorkerConfig& config, const MetricsRegistry& registry,
                                 const std::vector<grpc::Service*>& services) {
  GrpcServerOptions options;
  options.listen_address = config.listen_address;
  options.max_message_bytes = config.max_message_bytes;
  ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(options, services));
  std::vector<std::pair<std::string, int>> ports = {{"grpc", grpc_->port()}};
  if (!config.metrics_address.empty()) {
    ASSIGN_OR_RETURN(metrics_, MetricsServer::Start(config.metrics_address, registry));
    ports.emplace_back("metrics", metrics_->port());
  }
  LogInfo("listening", {{"address", config.listen_address},
                        {"port", grpc_->port()},
                        {"metrics_port", metrics_ == nullptr ? 0 : metrics_->port()}});
  return config.port_file.empty() ? absl::OkStatus() : WritePortFile(config.port_file, ports);
}

absl::StatusOr<std::unique_ptr<LlamaRankRunner>> LoadRunner(const WorkerConfig& config,
                                                            const WorkerDevice& device,
                                                            WorkerService* service) {
  ChooseThreads(config);
  service->BeginLoad();
  LoadOptions options;
  options.model_folder = config.model;
  options.load_format = config.load_format;
  options.dtype = config.dtype;
  options.shard = {config.rank, config.tensor_parallel};
  options.stream = device.stream();
  options.max_context_tokens = config.max_context_tokens;
  options.max_batch_tokens = config.max_batch_tokens;
  options.max_logit_rows = config.max_running_sequences;
  options.progress = LoadReporter(service);
  const absl::Time start = absl::Now();
  ASSIGN_OR_RETURN(LlamaSource source, OpenLlama(options));
  const LlamaRunnerOptions runner_options = RunnerOptions(config, source);
  RETURN_IF_ERROR(AwaitGpuMemory(config, device, GpuMemoryNeeds(source, options, runner_options)));
  ASSIGN_OR_RETURN(std::unique_ptr<LlamaModel> model, LoadLlama(std::move(source), options));
  const std::string fingerprint = model->fingerprint();
  const char* dtype = NameOf(model->dtype());
  ASSIGN_OR_RETURN(std::unique_ptr<LlamaRunner> runner,
                   LlamaRunner::Create(
                       std::move(model),
                       std::make_shared<DisbandedCollectives>(config.rank, config.tensor_parallel),
                       runner_options));
  LogInfo("loaded", {{"model", config.model},
                     {"dtype", dtype},
                     {"fingerprint", fingerprint},
                     {"seconds", absl::ToDoubleSeconds(absl::Now() - start)},
                     {"kv_blocks", runner->limits().num_blocks},
                     {"block_tokens", runner->limits().block_tokens},
                     {"max_context_tokens", runner->limits().max_context_tokens},
                     {"cpu_threads", CpuThreads()},
                     {"instructions", NameOf(ActiveCpuIsa())},
                     {"memory_bytes", ResidentBytes()},
                     {"device", device.use().name},
                     {"device_memory_bytes", device.use(absl::ZeroDuration()).used_bytes}});
  return std::make_unique<LlamaRankRunner>(std::move(runner));
}

void EndWedged(const std::string& why) {
  LogError("wedged", {{"reason", why}});
  std::_Exit(1);
}

void ReturnFreeMemory() { malloc_trim(0); }

void DescribeDevice(const WorkerDevice& device, v1::WorkerRank* rank) {
  const DeviceUse use = device.use();
  rank->set_device(use.name);
  rank->set_device_memory_bytes(static_cast<uint64_t>(use.used_bytes));
  rank->set_device_total_bytes(static_cast<uint64_t>(use.total_bytes));
}

}  // namespace caravan
