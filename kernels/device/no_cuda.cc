// kernels/device where the build has no CUDA: there is no device, so nothing can be asked of one.
#include "kernels/check.h"
#include "kernels/device/cuda_graph.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/gpu_processes.h"

namespace caravan {
namespace {

constexpr const char* kNoCuda = "this build has the CPU backend alone";

[[noreturn]] void NoDevice() { internal::KernelCheckFailed(__FILE__, __LINE__, "CUDA", kNoCuda); }

}  // namespace

std::vector<CudaDevice> FindCudaDevices(std::string* problem) {
  *problem = kNoCuda;
  return {};
}
std::string BuiltArchitectures() { return ""; }
bool HasCodeFor(int) { return false; }

std::string CudaLibraryProblem() { return kNoCuda; }

std::unique_ptr<CudaStream> CudaStream::Create(const CudaStreamOptions&, std::string* problem) {
  *problem = kNoCuda;
  return nullptr;
}
CudaStream::~CudaStream() = default;
void CudaStream::MakeCurrent() const { NoDevice(); }
void CudaStream::Synchronize() const { NoDevice(); }
bool CudaStream::IsIdle() const { NoDevice(); }

DeviceMemory DeviceMemory::Allocate(int64_t) { return {}; }
DeviceMemory::~DeviceMemory() = default;
DeviceMemory::DeviceMemory(DeviceMemory&&) noexcept {}
DeviceMemory& DeviceMemory::operator=(DeviceMemory&&) noexcept { return *this; }
PinnedMemory PinnedMemory::Allocate(int64_t) { return {}; }
PinnedMemory::~PinnedMemory() = default;
PinnedMemory::PinnedMemory(PinnedMemory&&) noexcept {}
PinnedMemory& PinnedMemory::operator=(PinnedMemory&&) noexcept { return *this; }
DeviceMemoryInfo QueryDeviceMemory() { NoDevice(); }
void CopyToDevice(void*, const void*, int64_t, const CudaStream&) { NoDevice(); }
void CopyToHost(void*, const void*, int64_t, const CudaStream&) { NoDevice(); }
void CopyOnDevice(void*, const void*, int64_t, const CudaStream&) { NoDevice(); }
void FillBytes(void*, int, int64_t, const CudaStream&) { NoDevice(); }

std::vector<GpuProcess> FindGpuProcesses(const std::string&) { return {}; }

CudaEvent CudaEvent::Create() { NoDevice(); }
CudaEvent::~CudaEvent() = default;
void CudaEvent::Record(const CudaStream&) { NoDevice(); }
void CudaEvent::Wait() const { NoDevice(); }
double CudaEvent::SecondsSince(const CudaEvent&) const { NoDevice(); }

CudaGraph::~CudaGraph() = default;
CudaGraph CudaGraph::Capture(const CudaStream&, const std::function<bool()>&) { NoDevice(); }
void CudaGraph::Launch(const CudaStream&) const { NoDevice(); }

}  // namespace caravan
