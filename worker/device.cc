#include "worker/device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status.h"
#include "kernels/device/device_memory.h"
#include "worker/model/runner/gpu_memory_plan.h"

namespace caravan {
namespace {

constexpr absl::Duration kRetryPause = absl::Milliseconds(50);
constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;
constexpr int kCpuRankTimeoutMs = 5000;  // see WorkerConfig
constexpr int kCudaRankTimeoutMs = 1000;
constexpr int kCpuWedgeTimeoutMs = 120000;
constexpr int kCudaWedgeTimeoutMs = 30000;

std::string NameOfGpu(const CudaDevice& device) {
  return absl::StrCat("GPU ", device.index, " ", device.name);
}

std::string NoCodeFor(const CudaDevice& device) {
  return absl::StrCat(NameOfGpu(device), " has compute capability ", device.compute_capability / 10,
                      ".", device.compute_capability % 10, ", this build has code for ",
                      BuiltArchitectures(), " alone");
}

absl::Status ChooseGpu(const std::vector<CudaDevice>& devices, const std::string& problem,
                       WorkerConfig* config) {
  if (devices.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--device=cuda can't be had: ", problem, "; --device=cpu runs without"));
  }
  const auto count = static_cast<int>(devices.size());
  if (config->gpu < 0 && config->rank >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", config->rank, " takes GPU ", config->rank, ", but ", count,
                     count == 1 ? " is" : " are",
                     " visible: lower --tensor_parallel, or give --gpu where the "
                     "ranks are on several hosts"));
  }
  const int gpu = config->gpu < 0 ? config->rank : config->gpu;
  if (gpu >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu is ", gpu, " for rank ", config->rank, "; ", count,
                     count == 1 ? " GPU is" : " GPUs are",
                     " visible (CUDA_VISIBLE_DEVICES?): each rank of each replica needs one"));
  }
  const CudaDevice& device = devices[static_cast<size_t>(gpu)];
  if (!HasCodeFor(device.compute_capability)) {
    return absl::FailedPreconditionError(
        absl::StrCat(NoCodeFor(device),
                     ": build with -DCARAVAN_CUDA_ARCHITECTURES=", device.compute_capability));
  }
  config->gpu = gpu;
  return absl::OkStatus();
}

}  // namespace

absl::Status ResolveDevice(WorkerConfig* config) {
  if (config->device == "cpu") return ResolveDevice({}, "", config);
  std::string problem;
  const std::vector<CudaDevice> devices = FindCudaDevices(&problem);
  return ResolveDevice(devices, problem, config);
}

absl::Status ResolveDevice(const std::vector<CudaDevice>& devices, const std::string& problem,
                           WorkerConfig* config) {
  if (config->device == "auto") {
    std::string reason = problem;
    config->device = "cpu";
    for (const CudaDevice& device : devices) {
      if (HasCodeFor(device.compute_capability)) config->device = "cuda";
      reason = NoCodeFor(device);
    }
    if (config->device == "cpu") LogInfo("using the CPU", {{"reason", reason}});
  }
  const bool cuda = config->device == "cuda";
  if (cuda) RETURN_IF_ERROR(ChooseGpu(devices, problem, config));
  if (config->rank_timeout_ms == 0) {
    config->rank_timeout_ms = cuda ? kCudaRankTimeoutMs : kCpuRankTimeoutMs;
  }
  if (config->wedge_timeout_ms == 0) {
    config->wedge_timeout_ms = cuda ? kCudaWedgeTimeoutMs : kCpuWedgeTimeoutMs;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WorkerDevice>> WorkerDevice::Open(const WorkerConfig& config) {
  std::unique_ptr<WorkerDevice> device(new WorkerDevice());
  if (config.device != "cuda") {
    device->use_.name = "cpu";
    return device;
  }
  if (const std::string missing = CudaLibraryProblem(); !missing.empty()) {
    return absl::FailedPreconditionError(missing);
  }
  const absl::Time deadline = absl::Now() + absl::Milliseconds(config.gpu_memory_wait_ms);
  const CudaStreamOptions options = {.device = config.gpu,
                                     .workspace_bytes = kWorkspaceBytes,
                                     .batch_invariant = config.batch_invariant};
  std::string problem;
  bool waited = false;
  while ((device->cuda_ = CudaStream::Create(options, &problem)) == nullptr) {
    if (absl::Now() >= deadline) {
      std::string ignored;
      std::vector<CudaDevice> devices = FindCudaDevices(&ignored);
      const auto index = static_cast<size_t>(config.gpu);
      const std::string bus = index < devices.size() ? devices[index].pci_bus_id : "";
      return absl::ResourceExhaustedError(
          absl::StrCat(problem, DescribeProcesses(FindGpuProcesses(bus)),
                       ". End what holds it, or choose another --gpu"));
    }
    if (!std::exchange(waited, true)) LogWarning("waiting for the GPU", {{"reason", problem}});
    absl::SleepFor(kRetryPause);
  }
  device->use_.name = NameOfGpu(device->cuda_->device());
  return device;
}

void WorkerDevice::AwaitMemory(int64_t bytes, absl::Time deadline) const {
  if (cuda_ == nullptr) return;
  cuda_->MakeCurrent();
  bool waited = false;
  while (QueryDeviceMemory().free_bytes < bytes && absl::Now() < deadline) {
    if (!std::exchange(waited, true)) {
      LogWarning("waiting for GPU memory",
                 {{"free_bytes", QueryDeviceMemory().free_bytes}, {"wanted_bytes", bytes}});
    }
    absl::SleepFor(kRetryPause);
  }
}

DeviceUse WorkerDevice::use(absl::Duration age) const {
  const std::lock_guard lock(mutex_);
  if (cuda_ == nullptr || absl::Now() - looked_ < age) return use_;
  looked_ = absl::Now();
  cuda_->MakeCurrent();
  const DeviceMemoryInfo memory = QueryDeviceMemory();
  use_.used_bytes = memory.total_bytes - memory.free_bytes;
  use_.total_bytes = memory.total_bytes;
  return use_;
}

}  // namespace caravan
