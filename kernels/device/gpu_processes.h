// Who else uses a GPU, for messages to people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace caravan {

struct GpuProcess {
  int pid = 0;         // as the driver counts: in a container it may be another one's
  std::string name;    // empty where it is not ours to see
  int64_t bytes = -1;  // of the GPU's memory; -1: unknown
};

// The processes with memory on the GPU at `pci_bus_id`, without this one. Empty where the driver's
// management library (NVML) is not there or does not tell.
std::vector<GpuProcess> FindGpuProcesses(const std::string& pci_bus_id);

}  // namespace caravan
