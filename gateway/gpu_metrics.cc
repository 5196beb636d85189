#include "gateway/gpu_metrics.h"

#include <dlfcn.h>

#include <array>
#include <utility>

#include "common/log.h"

namespace caravan {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using Device = void*;
constexpr int kSuccess = 0;
constexpr unsigned kUuidBytes = 96;

// As NVML lays them out; its header belongs to the CUDA toolkit, which a gateway does not need.
struct Utilization {
  unsigned gpu;  // percent
  unsigned memory;
};
struct Memory {
  unsigned long long total;  // bytes
  unsigned long long free;
  unsigned long long used;
};

template <typename Function>
bool Load(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

struct NvmlFunctions {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*get_count)(unsigned*) = nullptr;
  int (*get_device)(unsigned, Device*) = nullptr;
  int (*get_uuid)(Device, char*, unsigned) = nullptr;
  int (*get_utilization)(Device, Utilization*) = nullptr;
  int (*get_memory)(Device, Memory*) = nullptr;
  int (*get_power)(Device, unsigned*) = nullptr;             // milliwatts
  int (*get_power_limit)(Device, unsigned*) = nullptr;       // milliwatts
  int (*get_energy)(Device, unsigned long long*) = nullptr;  // millijoules since the driver started
  void* library = nullptr;

  bool LoadAll() {
    return Load(library, "nvmlInit_v2", &init) && Load(library, "nvmlShutdown", &shutdown) &&
           Load(library, "nvmlDeviceGetCount_v2", &get_count) &&
           Load(library, "nvmlDeviceGetHandleByIndex_v2", &get_device) &&
           Load(library, "nvmlDeviceGetUUID", &get_uuid) &&
           Load(library, "nvmlDeviceGetUtilizationRates", &get_utilization) &&
           Load(library, "nvmlDeviceGetMemoryInfo", &get_memory) &&
           Load(library, "nvmlDeviceGetPowerUsage", &get_power) &&
           Load(library, "nvmlDeviceGetEnforcedPowerLimit", &get_power_limit) &&
           Load(library, "nvmlDeviceGetTotalEnergyConsumption", &get_energy);
  }
};

namespace {

// Families by GPU; a device that can't tell a number has no line in its family.
class Table {
 public:
  enum Column : uint8_t {
    kUtilization,
    kMemoryTotal,
    kMemoryUsed,
    kPower,
    kPowerLimit,
    kEnergy,
    kNumColumns
  };

  Table() {
    Name(kUtilization, "nv_gpu_utilization", "GPU utilization rate [0.0 - 1.0)");
    Name(kMemoryTotal, "nv_gpu_memory_total_bytes", "GPU total memory, in bytes");
    Name(kMemoryUsed, "nv_gpu_memory_used_bytes", "GPU used memory, in bytes");
    Name(kPower, "nv_gpu_power_usage", "GPU power usage in watts");
    Name(kPowerLimit, "nv_gpu_power_limit", "GPU power management limit in watts");
    Name(kEnergy, "nv_energy_consumption",
         "GPU energy consumption in joules since the Triton Server started");
    families_[kEnergy].type = MetricType::Counter;
  }

  void Add(Column column, const std::string& uuid, double value) {
    ClientMetric metric;
    metric.label = {{"gpu_uuid", uuid}};
    (column == kEnergy ? metric.counter.value : metric.gauge.value) = value;
    families_[column].metric.push_back(std::move(metric));
  }

  std::vector<MetricFamily> Take() { return {families_.begin(), families_.end()}; }

 private:
  void Name(Column column, const char* name, const char* help) {
    families_[column].name = name;
    families_[column].help = help;
    families_[column].type = MetricType::Gauge;
  }

  std::array<MetricFamily, kNumColumns> families_;
};

}  // namespace

GpuMetrics::GpuMetrics(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return;
  auto nvml = std::make_unique<NvmlFunctions>();
  nvml->library = handle;
  if (!nvml->LoadAll() || nvml->init() != kSuccess) {
    LogWarning("no GPU metrics", {{"library", library}});
    dlclose(handle);
    return;
  }
  nvml_ = std::move(nvml);
  GpuMetrics::Collect();  // energy counts from here
}

GpuMetrics::~GpuMetrics() {
  if (nvml_ == nullptr) return;
  nvml_->shutdown();
  dlclose(nvml_->library);
}

double GpuMetrics::EnergySinceStart(const std::string& uuid, double joules) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return joules - first_energy_.try_emplace(uuid, joules).first->second;
}

std::vector<MetricFamily> GpuMetrics::Collect() const {
  unsigned count = 0;
  if (nvml_ == nullptr || nvml_->get_count(&count) != kSuccess) return {};
  Table table;
  for (unsigned i = 0; i < count; ++i) {
    Device device = nullptr;
    char uuid[kUuidBytes] = {};
    if (nvml_->get_device(i, &device) != kSuccess ||
        nvml_->get_uuid(device, uuid, kUuidBytes) != kSuccess) {
      continue;
    }
    Utilization utilization = {};
    if (nvml_->get_utilization(device, &utilization) == kSuccess) {
      table.Add(Table::kUtilization, uuid, utilization.gpu / 100.0);
    }
    Memory memory = {};
    if (nvml_->get_memory(device, &memory) == kSuccess) {
      table.Add(Table::kMemoryTotal, uuid, static_cast<double>(memory.total));
      table.Add(Table::kMemoryUsed, uuid, static_cast<double>(memory.used));
    }
    unsigned milliwatts = 0;
    if (nvml_->get_power(device, &milliwatts) == kSuccess) {
      table.Add(Table::kPower, uuid, milliwatts / 1000.0);
    }
    if (nvml_->get_power_limit(device, &milliwatts) == kSuccess) {
      table.Add(Table::kPowerLimit, uuid, milliwatts / 1000.0);
    }
    unsigned long long millijoules = 0;
    if (nvml_->get_energy(device, &millijoules) == kSuccess) {
      const double joules = static_cast<double>(millijoules) / 1000.0;
      table.Add(Table::kEnergy, uuid, EnergySinceStart(uuid, joules));
    }
  }
  return table.Take();
}

}  // namespace caravan
