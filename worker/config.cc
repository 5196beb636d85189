#include "worker/config.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/flags.h"
#include "common/status.h"

using caravan::WorkerConfig;

ABSL_FLAG(std::string, model, "",
          "Folder of the model: Hugging Face's (config.json with *.safetensors or "
          "pytorch_model*.bin), or a checkpoint of FasterTransformer.");
ABSL_FLAG(std::string, model_name, "", "Name that clients call it by. Empty: the folder's name.");
ABSL_FLAG(std::string, device, WorkerConfig{}.device,
          "auto (cuda where a GPU can be used, else cpu), cuda or cpu.");
ABSL_FLAG(int, gpu, WorkerConfig{}.gpu,
          "Which of the visible GPUs (CUDA_VISIBLE_DEVICES counts); -1 = the one of the rank's "
          "number.");
ABSL_FLAG(double, gpu_memory_fraction, WorkerConfig{}.gpu_memory_fraction,
          "Of the GPU's memory, what may be in use once the KV blocks are allocated.");
ABSL_FLAG(int, gpu_memory_wait_ms, WorkerConfig{}.gpu_memory_wait_ms,
          "How long to wait at start for GPU memory that another process, perhaps a dying one, "
          "holds.");
ABSL_FLAG(bool, cuda_graphs, WorkerConfig{}.cuda_graphs, "Replay decoding steps from CUDA graphs.");
ABSL_FLAG(bool, batch_invariant, WorkerConfig{}.batch_invariant,
          "On CUDA: what a request yields does not depend on what else runs, bit for bit; slower. "
          "The CPU always does so.");
ABSL_FLAG(std::string, dtype, WorkerConfig{}.dtype,
          "Of weights and activations: auto (the checkpoint's), float32, bfloat16, float16.");
ABSL_FLAG(std::string, load_format, WorkerConfig{}.load_format,
          "auto (whatever lies in the folder) or dummy (random weights from config.json alone).");
ABSL_FLAG(int, max_context_tokens, WorkerConfig{}.max_context_tokens,
          "Longest prompt and output together; 0 = what the model is made for.");
ABSL_FLAG(
    bool, load_at_start, WorkerConfig{}.load_at_start,
    "false: the model is loaded when a gateway asks for it (LoadModel), not at the start. The "
    "same for all ranks.");
ABSL_FLAG(int, rank, WorkerConfig{}.rank, "Number of this worker in its replica; 0 leads.");
ABSL_FLAG(int, tensor_parallel, WorkerConfig{}.tensor_parallel,
          "Workers that hold one copy of the model together.");
ABSL_FLAG(std::string, leader_address, "",
          "Where rank 0 of the replica listens, host:port; ranks above 0 need it.");
ABSL_FLAG(std::string, collectives, WorkerConfig{}.collectives,
          "How ranks sum: auto (through memory of one host, else over its links), shared_memory or "
          "gloo on CPUs, peer or nccl on GPUs. Rank 0 decides.");
ABSL_FLAG(int, rank_timeout_ms, WorkerConfig{}.rank_timeout_ms,
          "A rank that is silent for so long counts as lost; 0 = 1000 on CUDA, 5000 on the CPU.");
ABSL_FLAG(int, wedge_timeout_ms, WorkerConfig{}.wedge_timeout_ms,
          "A step without progress for so long is given up, and a process that can't leave it for "
          "as long again ends; 0 = 30000 on CUDA, 120000 on the CPU.");
ABSL_FLAG(std::string, listen_address, WorkerConfig{}.listen_address,
          "Where gateways and other ranks connect, host:port; port 0 takes a free one.");
ABSL_FLAG(std::string, metrics_address, "",
          "Where Prometheus scrapes /metrics, host:port; port 0 takes a free one. Empty: nowhere.");
ABSL_FLAG(std::string, port_file, "",
          "File to write the ports in use to, as grpc=PORT and metrics=PORT lines.");
ABSL_FLAG(int, max_message_bytes, WorkerConfig{}.max_message_bytes,
          "Largest message taken from a gateway; a larger one ends its own stream.");
ABSL_FLAG(int, max_session_tokens, WorkerConfig{}.max_session_tokens,
          "Tokens kept for a gateway that does not read; beyond, its session is broken.");
ABSL_FLAG(int, block_tokens, WorkerConfig{}.block_tokens, "Positions of one KV block.");
ABSL_FLAG(int64_t, kv_cache_bytes, WorkerConfig{}.kv_cache_bytes,
          "KV memory of this rank; 0 = what --gpu_memory_fraction leaves (CPU: a quarter of the "
          "free memory, at most 4 GiB), no more than the running sequences can fill.");
ABSL_FLAG(int, max_batch_tokens, WorkerConfig{}.max_batch_tokens,
          "Most tokens of one step; bounds activation memory.");
ABSL_FLAG(int, max_prefill_chunk_tokens, WorkerConfig{}.max_prefill_chunk_tokens,
          "Most prompt tokens of one sequence in one step.");
ABSL_FLAG(int, max_running_sequences, WorkerConfig{}.max_running_sequences,
          "Most sequences that run at once; more wait.");
ABSL_FLAG(int, max_waiting_requests, WorkerConfig{}.max_waiting_requests,
          "Most requests that wait; more are refused.");
ABSL_FLAG(double, step_time_target_ms, WorkerConfig{}.step_time_target_ms,
          "Prompts are cut so that a step takes about so long; 0 = by tokens alone.");
ABSL_FLAG(bool, enable_prefix_cache, WorkerConfig{}.enable_prefix_cache,
          "Share the KV of equal prompt prefixes.");
ABSL_FLAG(bool, pipelined, WorkerConfig{}.pipelined,
          "Plan the next step while one runs; false is the simple loop.");
ABSL_FLAG(int, pipeline_depth, WorkerConfig{}.pipeline_depth, "Steps in flight when pipelined.");
ABSL_FLAG(bool, check_invariants, WorkerConfig{}.check_invariants,
          "Check the scheduler's books after each step (slow).");
ABSL_FLAG(int, cpu_threads, WorkerConfig{}.cpu_threads,
          "Threads of one operator; 0 = OMP_NUM_THREADS, else the cores by tensor_parallel.");
ABSL_FLAG(int, lameduck_ms, WorkerConfig{}.lameduck_ms,
          "After SIGTERM: how long new requests are still taken (readiness is false at once).");
ABSL_FLAG(int, drain_timeout_ms, WorkerConfig{}.drain_timeout_ms,
          "After SIGTERM: how long requests in flight may take to finish.");

namespace caravan {
namespace {

constexpr int64_t kMebi = 1 << 20;
constexpr int64_t kMostDefaultKvBytes = int64_t{4096} * kMebi;
constexpr int64_t kLeastDefaultKvBytes = 16 * kMebi;

absl::Status CheckReplica(const WorkerConfig& config) {
  RETURN_IF_ERROR(CheckIn("tensor_parallel", config.tensor_parallel, 1, 64));
  RETURN_IF_ERROR(CheckIn("rank", config.rank, 0, config.tensor_parallel - 1));
  if (config.rank > 0 && config.leader_address.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--leader_address is empty; rank ", config.rank,
                                                   " needs the address of rank 0"));
  }
  if (config.rank == 0 && !config.leader_address.empty()) {
    return absl::InvalidArgumentError("--leader_address is for ranks above 0; rank 0 leads");
  }
  if (config.rank > 0) RETURN_IF_ERROR(CheckAddress("leader_address", config.leader_address));
  RETURN_IF_ERROR(CheckOneOf("collectives", config.collectives,
                             {"auto", "shared_memory", "gloo", "peer", "nccl"}));
  if (config.rank_timeout_ms != 0) {
    RETURN_IF_ERROR(CheckIn("rank_timeout_ms", config.rank_timeout_ms, 100, 600000));
  }
  if (config.wedge_timeout_ms == 0) return absl::OkStatus();
  return CheckIn("wedge_timeout_ms", config.wedge_timeout_ms, 1000, 3600000);
}

absl::Status CheckGpu(const WorkerConfig& config) {
  RETURN_IF_ERROR(CheckOneOf("device", config.device, {"auto", "cuda", "cpu"}));
  RETURN_IF_ERROR(CheckIn("gpu", config.gpu, -1, 1023));
  if (!(config.gpu_memory_fraction > 0 && config.gpu_memory_fraction <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("--gpu_memory_fraction is ",
                                                   config.gpu_memory_fraction,
                                                   "; it must be above 0 and at most 1"));
  }
  return CheckIn("gpu_memory_wait_ms", config.gpu_memory_wait_ms, 0, 3600000);
}

absl::Status CheckEngine(const WorkerConfig& config) {
  constexpr int kMost = 1 << 20;
  RETURN_IF_ERROR(CheckIn("block_tokens", config.block_tokens, 1, 1024));
  RETURN_IF_ERROR(CheckIn("kv_cache_bytes", config.kv_cache_bytes, 0, int64_t{1} << 50));
  RETURN_IF_ERROR(CheckIn("max_batch_tokens", config.max_batch_tokens, 1, kMost));
  RETURN_IF_ERROR(CheckIn("max_prefill_chunk_tokens", config.max_prefill_chunk_tokens, 1, kMost));
  RETURN_IF_ERROR(CheckIn("max_running_sequences", config.max_running_sequences, 1, 65536));
  RETURN_IF_ERROR(CheckIn("max_waiting_requests", config.max_waiting_requests, 0, kMost));
  if (!(config.step_time_target_ms >= 0 && config.step_time_target_ms <= 1e6)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--step_time_target_ms is ", config.step_time_target_ms, "; it must be from 0 to 1000000"));
  }
  RETURN_IF_ERROR(CheckIn("pipeline_depth", config.pipeline_depth, 1, 8));
  return CheckIn("cpu_threads", config.cpu_threads, 0, 4096);
}

}  // namespace

absl::Status CheckWorkerConfig(const WorkerConfig& config) {
  if (config.model.empty()) {
    return absl::InvalidArgumentError("--model is empty; give the folder of a model");
  }
  RETURN_IF_ERROR(CheckGpu(config));
  RETURN_IF_ERROR(CheckOneOf("dtype", config.dtype, {"auto", "float32", "bfloat16", "float16"}));
  RETURN_IF_ERROR(CheckOneOf("load_format", config.load_format, {"auto", "dummy"}));
  RETURN_IF_ERROR(CheckIn("max_context_tokens", config.max_context_tokens, 0, 1 << 24));
  RETURN_IF_ERROR(CheckReplica(config));
  RETURN_IF_ERROR(CheckListenAddress("listen_address", config.listen_address));
  if (!config.metrics_address.empty()) {
    RETURN_IF_ERROR(CheckListenAddress("metrics_address", config.metrics_address));
  }
  RETURN_IF_ERROR(CheckIn("max_message_bytes", config.max_message_bytes, 1024, 1 << 30));
  RETURN_IF_ERROR(CheckIn("max_session_tokens", config.max_session_tokens, 1, 1 << 30));
  RETURN_IF_ERROR(CheckEngine(config));
  RETURN_IF_ERROR(CheckIn("lameduck_ms", config.lameduck_ms, 0, 3600000));
  return CheckIn("drain_timeout_ms", config.drain_timeout_ms, 0, 86400000);
}

absl::StatusOr<WorkerConfig> LoadWorkerConfig() {
  WorkerConfig config;
  config.model = absl::GetFlag(FLAGS_model);
  while (config.model.size() > 1 && config.model.back() == '/') config.model.pop_back();
  config.model_name = absl::GetFlag(FLAGS_model_name);
  if (config.model_name.empty()) {
    config.model_name = config.model.substr(config.model.rfind('/') + 1);
  }
  config.device = absl::GetFlag(FLAGS_device);
  config.gpu = absl::GetFlag(FLAGS_gpu);
  config.gpu_memory_fraction = absl::GetFlag(FLAGS_gpu_memory_fraction);
  config.gpu_memory_wait_ms = absl::GetFlag(FLAGS_gpu_memory_wait_ms);
  config.cuda_graphs = absl::GetFlag(FLAGS_cuda_graphs);
  config.batch_invariant = absl::GetFlag(FLAGS_batch_invariant);
  config.dtype = absl::GetFlag(FLAGS_dtype);
  config.load_format = absl::GetFlag(FLAGS_load_format);
  config.max_context_tokens = absl::GetFlag(FLAGS_max_context_tokens);
  config.load_at_start = absl::GetFlag(FLAGS_load_at_start);
  config.rank = absl::GetFlag(FLAGS_rank);
  config.tensor_parallel = absl::GetFlag(FLAGS_tensor_parallel);
  config.leader_address = absl::GetFlag(FLAGS_leader_address);
  config.collectives = absl::GetFlag(FLAGS_collectives);
  config.rank_timeout_ms = absl::GetFlag(FLAGS_rank_timeout_ms);
  config.wedge_timeout_ms = absl::GetFlag(FLAGS_wedge_timeout_ms);
  config.listen_address = absl::GetFlag(FLAGS_listen_address);
  config.metrics_address = absl::GetFlag(FLAGS_metrics_address);
  config.port_file = absl::GetFlag(FLAGS_port_file);
  config.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  config.max_session_tokens = absl::GetFlag(FLAGS_max_session_tokens);
  config.block_tokens = absl::GetFlag(FLAGS_block_tokens);
  config.kv_cache_bytes = absl::GetFlag(FLAGS_kv_cache_bytes);
  config.max_batch_tokens = absl::GetFlag(FLAGS_max_batch_tokens);
  config.max_prefill_chunk_tokens = absl::GetFlag(FLAGS_max_prefill_chunk_tokens);
  config.max_running_sequences = absl::GetFlag(FLAGS_max_running_sequences);
  config.max_waiting_requests = absl::GetFlag(FLAGS_max_waiting_requests);
  config.step_time_target_ms = absl::GetFlag(FLAGS_step_time_target_ms);
  config.enable_prefix_cache = absl::GetFlag(FLAGS_enable_prefix_cache);
  config.pipelined = absl::GetFlag(FLAGS_pipelined);
  config.pipeline_depth = absl::GetFlag(FLAGS_pipeline_depth);
  config.check_invariants = absl::GetFlag(FLAGS_check_invariants);
  config.cpu_threads = absl::GetFlag(FLAGS_cpu_threads);
  config.lameduck_ms = absl::GetFlag(FLAGS_lameduck_ms);
  config.drain_timeout_ms = absl::GetFlag(FLAGS_drain_timeout_ms);
  RETURN_IF_ERROR(CheckWorkerConfig(config));
  return config;
}

int64_t DefaultKvCacheBytes(int tensor_parallel) {
  int64_t available = 0;
  std::ifstream file("/proc/meminfo");
  for (std::string name; file >> name;) {
    if (name == "MemAvailable:") {
      file >> available;  // KiB
      available *= 1024;
      break;
    }
  }
  return std::clamp(available / 4 / tensor_parallel, kLeastDefaultKvBytes, kMostDefaultKvBytes);
}

}  // namespace caravan
