#include "kernels/device/gpu_processes.h"

#include <dlfcn.h>
#include <unistd.h>

#include <fstream>

namespace caravan {
namespace {

// The part of NVML's binary interface that is used here; its header is not part of every toolkit.
constexpr int kNvmlSuccess = 0;
using NvmlDevice = void*;
struct NvmlProcessInfo {  // nvmlProcessInfo_v2_t
  unsigned pid;
  unsigned long long used_bytes;  // all ones: not available
  unsigned gpu_instance;
  unsigned compute_instance;
};
using NvmlCall = int (*)();
using NvmlHandleByPciBusId = int (*)(const char* bus_id, NvmlDevice* device);
using NvmlRunningProcesses = int (*)(NvmlDevice device, unsigned* count, NvmlProcessInfo* infos);

// NVML comes with the driver, so it is looked for when it is needed.
class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    const auto init = Find<NvmlCall>("nvmlInit_v2");
    ready_ = init != nullptr && init() == kNvmlSuccess;
  }
  ~Nvml() {
    const auto shutdown = Find<NvmlCall>("nvmlShutdown");
    if (ready_ && shutdown != nullptr) shutdown();
    if (library_ != nullptr) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  bool ready() const { return ready_; }
  template <typename Function>
  Function Find(const char* name) const {
    return library_ == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(library_, name));
  }

 private:
  void* library_;
  bool ready_ = false;
};

std::string NameOfProcess(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

std::vector<GpuProcess> FindGpuProcesses(const std::string& pci_bus_id) {
  const Nvml nvml;
  if (!nvml.ready()) return {};
  const auto handle_of = nvml.Find<NvmlHandleByPciBusId>("nvmlDeviceGetHandleByPciBusId_v2");
  const auto processes_of =
      nvml.Find<NvmlRunningProcesses>("nvmlDeviceGetComputeRunningProcesses_v3");
  NvmlDevice device = nullptr;
  if (handle_of == nullptr || processes_of == nullptr ||
      handle_of(pci_bus_id.c_str(), &device) != kNvmlSuccess) {
    return {};
  }
  unsigned count = 64;
  std::vector<NvmlProcessInfo> found(count);
  if (processes_of(device, &count, found.data()) != kNvmlSuccess) return {};
  std::vector<GpuProcess> processes;
  for (unsigned i = 0; i < count; ++i) {
    const auto pid = static_cast<int>(found[i].pid);
    if (pid == getpid()) continue;
    // All ones, unknown, is -1.
    processes.push_back({pid, NameOfProcess(pid), static_cast<int64_t>(found[i].used_bytes)});
  }
  return processes;
}

}  // namespace caravan
