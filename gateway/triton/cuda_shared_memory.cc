#include "gateway/triton/cuda_shared_memory.h"

#include <dlfcn.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"

namespace caravan {
namespace {

// The driver's types, as its ABI has them.
using Result = int;
using Device = int;
using Context = void*;
using DevicePointer = unsigned long long;  // NOLINT(google-runtime-int)
struct IpcHandle {
  char bytes[CudaSharedMemory::kHandleBytes];
};

constexpr Result kSuccess = 0;
constexpr unsigned kLazyPeerAccess = 1;  // CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS

}  // namespace

// The functions that are used. Contexts are current on a thread only while a call needs one.
class CudaSharedMemory::Driver {
 public:
  // Null where there is no GPU; `problem` says why.
  static std::unique_ptr<Driver> Load(const std::string& library, std::string* problem);
  ~Driver() { dlclose(handle_); }

  int num_devices() const { return num_devices_; }
  absl::StatusOr<Context> Retain(int device);
  void Release(int device);
  absl::StatusOr<DevicePointer> Open(Context context, const std::string& raw_handle,
                                     uint64_t* allocated_bytes);
  void Close(Context context, DevicePointer pointer);
  absl::Status CopyToHost(Context context, void* to, DevicePointer from, size_t bytes) const;
  absl::Status CopyToDevice(Context context, DevicePointer to, const void* from,
                            size_t bytes) const;

 private:
  // Makes a context current, and what was before again.
  class Current {
   public:
    Current(const Driver& driver, Context context)
        : driver_(driver), status(driver.Check("cuCtxPushCurrent", driver.push_(context))) {}
    ~Current() {
      Context popped = nullptr;
      if (status.ok()) driver_.pop_(&popped);
    }

   private:
    const Driver& driver_;

   public:
    const absl::Status status;
  };

  explicit Driver(void* handle) : handle_(handle) {}
  template <typename Function>
  bool Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle_, name));
    return *function != nullptr;
  }
  bool FindAll();
  absl::Status Check(const char* call, Result result) const;

  void* const handle_;
  int num_devices_ = 0;
  Result (*init_)(unsigned) = nullptr;
  Result (*count_)(int*) = nullptr;
  Result (*get_)(Device*, int) = nullptr;
  Result (*retain_)(Context*, Device) = nullptr;
  Result (*release_)(Device) = nullptr;
  Result (*push_)(Context) = nullptr;
  Result (*pop_)(Context*) = nullptr;
  Result (*open_)(DevicePointer*, IpcHandle, unsigned) = nullptr;
  Result (*close_)(DevicePointer) = nullptr;
  Result (*range_)(DevicePointer*, size_t*, DevicePointer) = nullptr;
  Result (*to_host_)(void*, DevicePointer, size_t) = nullptr;
  Result (*to_device_)(DevicePointer, const void*, size_t) = nullptr;
  Result (*synchronize_)() = nullptr;
  Result (*error_)(Result, const char**) = nullptr;
};

bool CudaSharedMemory::Driver::FindAll() {
  return Find("cuInit", &init_) && Find("cuDeviceGetCount", &count_) &&
         Find("cuDeviceGet", &get_) && Find("cuDevicePrimaryCtxRetain", &retain_) &&
         Find("cuDevicePrimaryCtxRelease_v2", &release_) && Find("cuCtxPushCurrent_v2", &push_) &&
         Find("cuCtxPopCurrent_v2", &pop_) && Find("cuIpcOpenMemHandle_v2", &open_) &&
         Find("cuIpcCloseMemHandle", &close_) && Find("cuMemGetAddressRange_v2", &range_) &&
         Find("cuMemcpyDtoH_v2", &to_host_) && Find("cuMemcpyHtoD_v2", &to_device_) &&
         Find("cuCtxSynchronize", &synchronize_) && Find("cuGetErrorString", &error_);
}

std::unique_ptr<CudaSharedMemory::Driver> CudaSharedMemory::Driver::Load(const std::string& library,
                                                                         std::string* problem) {
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    *problem = "NVIDIA's driver is not installed";
    return nullptr;
  }
  std::unique_ptr<Driver> driver(new Driver(handle));
  if (!driver->FindAll()) {
    *problem = absl::StrCat(library, " is too old");
    return nullptr;
  }
  absl::Status status = driver->Check("cuInit", driver->init_(0));
  if (status.ok()) {
    status = driver->Check("cuDeviceGetCount", driver->count_(&driver->num_devices_));
  }
  if (status.ok() && driver->num_devices_ > 0) return driver;
  *problem = status.ok() ? "it has none" : std::string(status.message());
  return nullptr;
}

absl::Status CudaSharedMemory::Driver::Check(const char* call, Result result) const {
  if (result == kSuccess) return absl::OkStatus();
  const char* text = nullptr;
  error_(result, &text);
  return absl::InvalidArgumentError(
      absl::StrCat(call, ": ", text == nullptr ? absl::StrCat("error ", result) : text));
}

absl::StatusOr<Context> CudaSharedMemory::Driver::Retain(int device) {
  Device handle = 0;
  Context context = nullptr;
  RETURN_IF_ERROR(Check("cuDeviceGet", get_(&handle, device)));
  RETURN_IF_ERROR(Check("cuDevicePrimaryCtxRetain", retain_(&context, handle)));
  return context;
}

void CudaSharedMemory::Driver::Release(int device) {
  Device handle = 0;
  if (get_(&handle, device) == kSuccess) release_(handle);
}

absl::StatusOr<DevicePointer> CudaSharedMemory::Driver::Open(Context context,
                                                             const std::string& raw_handle,
                                                             uint64_t* allocated_bytes) {
  const Current current(*this, context);
  RETURN_IF_ERROR(current.status);
  IpcHandle handle;
  std::memcpy(handle.bytes, raw_handle.data(), kHandleBytes);
  DevicePointer pointer = 0;
  RETURN_IF_ERROR(Check("cuIpcOpenMemHandle", open_(&pointer, handle, kLazyPeerAccess)));
  DevicePointer base = 0;
  size_t bytes = 0;
  const absl::Status known = Check("cuMemGetAddressRange", range_(&base, &bytes, pointer));
  if (!known.ok()) {
    close_(pointer);
    return known;
  }
  *allocated_bytes = bytes - (pointer - base);
  return pointer;
}

void CudaSharedMemory::Driver::Close(Context context, DevicePointer pointer) {
  const Current current(*this, context);
  if (current.status.ok()) close_(pointer);
}

absl::Status CudaSharedMemory::Driver::CopyToHost(Context context, void* to, DevicePointer from,
                                                  size_t bytes) const {
  const Current current(*this, context);
  RETURN_IF_ERROR(current.status);
  return Check("cuMemcpyDtoH", to_host_(to, from, bytes));
}

absl::Status CudaSharedMemory::Driver::CopyToDevice(Context context, DevicePointer to,
                                                    const void* from, size_t bytes) const {
  const Current current(*this, context);
  RETURN_IF_ERROR(current.status);
  RETURN_IF_ERROR(Check("cuMemcpyHtoD", to_device_(to, from, bytes)));
  // The copy may still be on its way from the driver's buffer, and the client reads at once.
  return Check("cuCtxSynchronize", synchronize_());
}

class CudaSharedMemory::MappedRegion final : public CudaSharedMemoryRegion {
 public:
  struct Place {
    CudaSharedMemory* owner;
    int device;
    Context context;
    DevicePointer pointer;
  };
  MappedRegion(std::string name, uint64_t byte_size, const Place& place)
      : CudaSharedMemoryRegion(std::move(name), byte_size, place.device), place_(place) {}
  ~MappedRegion() override {
    place_.owner->Post([place = place_] {
      place.owner->driver_->Close(place.context, place.pointer);
      place.owner->driver_->Release(place.device);  // the driver counts
    });
  }

  absl::StatusOr<std::string> Read(uint64_t offset, uint64_t byte_size) const override {
    RETURN_IF_ERROR(CheckRange(offset, byte_size));
    std::string data(byte_size, '\0');
    if (data.empty()) return data;
    const absl::Status copied = place_.owner->driver_->CopyToHost(
        place_.context, data.data(), place_.pointer + offset, data.size());
    if (copied.ok()) return data;
    return Failed("read", copied);
  }

  absl::Status Write(uint64_t offset, std::string_view data) const override {
    RETURN_IF_ERROR(CheckRange(offset, data.size()));
    if (data.empty()) return absl::OkStatus();
    const absl::Status copied = place_.owner->driver_->CopyToDevice(
        place_.context, place_.pointer + offset, data.data(), data.size());
    return copied.ok() ? copied : Failed("written", copied);
  }

 private:
  absl::Status Failed(const char* what, const absl::Status& why) const {
    return absl::InvalidArgumentError(absl::StrCat("cuda shared memory region '", name(),
                                                   "' can't be ", what, ": ", why.message()));
  }

  const Place place_;
};

CudaSharedMemory::CudaSharedMemory(std::string library) : library_(std::move(library)) {
  Post([this] {
    driver_ = Driver::Load(library_, &problem_);
    available_ = driver_ != nullptr;
    if (available_) LogInfo("CUDA shared memory", {{"gpus", driver_->num_devices()}});
  });
  thread_ = std::thread([this] { RunTasks(); });
}

CudaSharedMemory::~CudaSharedMemory() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CudaSharedMemory::Post(absl::AnyInvocable<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_all();
}

void CudaSharedMemory::RunTasks() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    if (stopping_) return;
    absl::AnyInvocable<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
  }
}

void CudaSharedMemory::Open(const std::string& name, const std::string& raw_handle,
                            int64_t device_id, uint64_t byte_size, Done done) {
  Post([=, this, done = std::move(done)] { done(Map(name, raw_handle, device_id, byte_size)); });
}

absl::StatusOr<CudaSharedMemory::Region> CudaSharedMemory::Map(const std::string& name,
                                                               const std::string& raw_handle,
                                                               int64_t device_id,
                                                               uint64_t byte_size) {
  if (driver_ == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("CUDA shared memory is not supported: the gateway has no GPU (", problem_,
                     "); use system shared memory"));
  }
  const auto refused = [&](const auto&... why) {
    return absl::InvalidArgumentError(
        absl::StrCat("failed to register CUDA shared memory region '", name, "': ", why...));
  };
  if (raw_handle.size() != kHandleBytes) {
    return refused("raw_handle has ", raw_handle.size(), " bytes; a cudaIpcMemHandle_t has ",
                   kHandleBytes);
  }
  if (device_id < 0 || device_id >= driver_->num_devices()) {
    return refused("device_id is ", device_id, "; the gateway has ", driver_->num_devices(),
                   " GPUs, counted from 0");
  }
  const int device = static_cast<int>(device_id);
  const absl::StatusOr<Context> context = driver_->Retain(device);
  if (!context.ok()) return refused(context.status().message());
  uint64_t allocated = 0;
  const absl::StatusOr<DevicePointer> pointer = driver_->Open(*context, raw_handle, &allocated);
  if (!pointer.ok()) {
    driver_->Release(device);
    return refused(pointer.status().message());
  }
  if (byte_size > allocated) {
    driver_->Close(*context, *pointer);
    driver_->Release(device);
    return refused("byte_size is ", byte_size, ", the memory behind raw_handle has ", allocated,
                   " bytes");
  }
  return std::make_shared<MappedRegion>(name, byte_size,
                                        MappedRegion::Place{this, device, *context, *pointer});
}

}  // namespace caravan
