#include "worker/model/runner/gpu_memory_plan.h"

#include <algorithm>
#include <utility>

#include "common/status.h"
#include "worker/model/host_memory.h"
#include "worker/model/runner/step_memory.h"

namespace caravan {
namespace {

constexpr int64_t kMebi = 1 << 20;
constexpr int64_t kGraphBytes = 128 * kMebi;         // a graph's nodes, of all buckets
constexpr int64_t kCommunicatorBytes = 512 * kMebi;  // NCCL's channels and our peer buffers

}  // namespace

std::vector<MemoryNeed> GpuMemoryNeeds(const LlamaSource& source, const LoadOptions& load,
                                       const LlamaRunnerOptions& runner) {
  RunnerLimits limits;
  limits.block_tokens = runner.block_tokens;
  limits.max_slots = runner.max_slots;
  limits.max_batch_tokens = load.max_batch_tokens;
  limits.max_context_tokens = source.max_context_tokens;
  limits.max_steps_in_flight = runner.max_steps_in_flight;
  const ActivationOptions activations = {load.max_batch_tokens, load.max_logit_rows, source.dtype,
                                         load.stream};
  const int64_t block =
      KvBlockBytes(source.config, source.layout, runner.block_tokens, source.dtype);
  const int64_t least_blocks =
      (int64_t{load.max_batch_tokens} + runner.block_tokens - 1) / runner.block_tokens;
  const int64_t kv = runner.num_blocks > 0       ? runner.num_blocks * block
                     : runner.kv_cache_bytes > 0 ? runner.kv_cache_bytes
                                                 : least_blocks * block;
  const bool chosen = runner.num_blocks > 0 || runner.kv_cache_bytes > 0;
  std::vector<MemoryNeed> needs = {
      {"weights", WeightBytes(source.config, source.layout, source.dtype),
       source.dtype == DType::kFloat32 ? "a greater --tensor_parallel or a --dtype of 16 bits"
                                       : "a greater --tensor_parallel"},
      {"activations", ActivationMemory::Bytes(source.config, source.layout, activations),
       "a smaller --max_batch_tokens or --max_running_sequences"},
      {"slot tables", StepBuffers::Bytes(limits),
       "a smaller --max_running_sequences or --max_context_tokens"},
      {"rope tables",
       RopeTable::Bytes(source.config, source.max_context_tokens, load.max_batch_tokens),
       "a smaller --max_context_tokens"},
      {chosen ? "KV blocks" : "KV blocks of one full step", kv,
       chosen ? "a smaller --kv_cache_bytes" : "a smaller --max_batch_tokens"}};
  if (runner.cuda_graphs) needs.push_back({"CUDA graphs", kGraphBytes, "--cuda_graphs=false"});
  if (source.layout.shard.world_size > 1) {
    needs.push_back({"communicators", kCommunicatorBytes, ""});
  }
  return needs;
}

int64_t TotalBytes(const std::vector<MemoryNeed>& needs) {
  int64_t bytes = 0;
  for (const MemoryNeed& need : needs) bytes += need.bytes;
  return bytes;
}

int64_t GpuBudget(const DeviceMemoryInfo& memory, double fraction) {
  const auto most = static_cast<int64_t>(static_cast<double>(memory.total_bytes) * fraction);
  return most - (memory.total_bytes - memory.free_bytes);
}

int64_t KvBudget(const DeviceMemoryInfo& memory, const LlamaRunnerOptions& options,
                 int32_t world_size) {
  return GpuBudget(memory, options.gpu_memory_fraction) - (options.cuda_graphs ? kGraphBytes : 0) -
         (world_size > 1 ? kCommunicatorBytes : 0);
}

absl::Status CheckKvBudget(int64_t budget, int64_t block_bytes, const LlamaRunnerOptions& options) {
  if (budget >= block_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("--gpu_memory_fraction=", options.gpu_memory_fraction, " leaves ",
                   BytesText(std::max<int64_t>(budget, 0)), " for KV blocks, and one of ",
                   options.block_tokens, " tokens takes ", BytesText(block_bytes),
                   " on this rank: raise --gpu_memory_fraction, or lower --max_batch_tokens"));
}

std::string DescribeProcesses(const std::vector<GpuProcess>& processes) {
  std::string text;
  for (const GpuProcess& process : processes) {
    absl::StrAppend(&text, text.empty() ? "; in use by " : ", ", "process ", process.pid);
    if (!process.name.empty()) absl::StrAppend(&text, " (", process.name, ")");
    if (process.bytes >= 0) absl::StrAppend(&text, " with ", BytesText(process.bytes));
  }
  return text;
}

absl::Status CheckGpuMemory(const std::string& gpu, const std::vector<MemoryNeed>& needs,
                            const DeviceMemoryInfo& memory, double fraction,
                            const std::vector<GpuProcess>& others) {
  const int64_t total = TotalBytes(needs);
  const int64_t budget = GpuBudget(memory, fraction);
  if (total <= budget) return absl::OkStatus();
  std::string text = absl::StrCat(gpu, " has too little memory: ", BytesText(total), " are needed");
  for (size_t i = 0; i < needs.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? " (" : ", ", needs[i].what, " ", BytesText(needs[i].bytes));
  }
  absl::StrAppend(&text, "), ", BytesText(memory.free_bytes), " of ", BytesText(memory.total_bytes),
                  " are free, of which --gpu_memory_fraction=", fraction, " allows ",
                  BytesText(std::max<int64_t>(budget, 0)), DescribeProcesses(others), ". ");
  if (total <= memory.free_bytes) {
    absl::StrAppend(&text, "Raise --gpu_memory_fraction, or choose ");
  } else {
    absl::StrAppend(&text, "Choose another --gpu, or ");
  }
  const auto largest =
      std::max_element(needs.begin(), needs.end(), [](const MemoryNeed& a, const MemoryNeed& b) {
        return std::pair(!a.remedy.empty(), a.bytes) < std::pair(!b.remedy.empty(), b.bytes);
      });
  return absl::ResourceExhaustedError(absl::StrCat(text, largest->remedy));
}

}  // namespace caravan
