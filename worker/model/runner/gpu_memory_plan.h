// What a rank takes of its GPU's memory, and what is said where that is not there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/gpu_processes.h"
#include "worker/model/loading/load_llama.h"
#include "worker/model/runner/llama_runner.h"

namespace caravan {

struct MemoryNeed {
  std::string what;
  int64_t bytes = 0;
  std::string remedy;  // the flag that makes it less; empty where none does
};

// All that is taken at start, KV blocks for one full step at least among it.
std::vector<MemoryNeed> GpuMemoryNeeds(const LlamaSource& source, const LoadOptions& load,
                                       const LlamaRunnerOptions& runner);
int64_t TotalBytes(const std::vector<MemoryNeed>& needs);

// What this process may take in all, of a GPU with that much free: what leaves (1 - fraction) of
// the whole to others. Negative where they have more.
int64_t GpuBudget(const DeviceMemoryInfo& memory, double fraction);

// What KV blocks may take once all else is allocated: the budget without what is allocated later,
// graphs and communicators.
int64_t KvBudget(const DeviceMemoryInfo& memory, const LlamaRunnerOptions& options,
                 int32_t world_size);

// RESOURCE_EXHAUSTED where not one block of `block_bytes` fits into a budget.
absl::Status CheckKvBudget(int64_t budget, int64_t block_bytes, const LlamaRunnerOptions& options);

// "; in use by process 4711 (python3) with 3.00 GiB, …"; empty where there is none.
std::string DescribeProcesses(const std::vector<GpuProcess>& processes);

// RESOURCE_EXHAUSTED where the needs exceed the budget: how much for what, how much is free, who
// holds the rest, and which flags to change.
absl::Status CheckGpuMemory(const std::string& gpu, const std::vector<MemoryNeed>& needs,
                            const DeviceMemoryInfo& memory, double fraction,
                            const std::vector<GpuProcess>& others);

}  // namespace caravan
