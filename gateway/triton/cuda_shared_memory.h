// Memory of GPUs that client processes share by CUDA's IPC handles, through NVIDIA's driver alone:
// the library is loaded where it is installed, and nothing links against it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "gateway/triton/shared_memory.h"

namespace caravan {

// One region of a GPU's memory, mapped until it is destroyed.
class CudaSharedMemoryRegion : public SharedMemoryRegion {
 public:
  SharedMemoryKind kind() const final { return SharedMemoryKind::kCuda; }
  int64_t device_id() const { return device_id_; }

 protected:
  CudaSharedMemoryRegion(std::string name, uint64_t byte_size, int64_t device_id)
      : SharedMemoryRegion(std::move(name), byte_size), device_id_(device_id) {}

 private:
  const int64_t device_id_;
};

// Opens regions. A thread of its own does what may take long: finding the GPUs, making a context
// (523 MiB of an H100, until its last region is closed), mapping and unmapping.
// Copies are made by the thread that reads or writes a region.
class CudaSharedMemory {
 public:
  using Region = std::shared_ptr<const CudaSharedMemoryRegion>;
  using Done = std::function<void(absl::StatusOr<Region>)>;
  static constexpr size_t kHandleBytes = 64;  // of a cudaIpcMemHandle_t

  // Begins to look for GPUs.
  explicit CudaSharedMemory(std::string library = "libcuda.so.1");
  // Opens that were not begun are dropped without an answer. Its regions must be gone.
  ~CudaSharedMemory();

  // Any thread: GPUs were found.
  bool available() const { return available_; }

  // Any thread. `done` is called on the own thread: UNIMPLEMENTED where there is no GPU,
  // INVALID_ARGUMENT for a device that does not exist, a handle of another length or of memory that
  // can't be mapped (the process that made it must live), and an allocation shorter than byte_size.
  void Open(const std::string& name, const std::string& raw_handle, int64_t device_id,
            uint64_t byte_size, Done done);

 private:
  class Driver;
  class MappedRegion;

  void Post(absl::AnyInvocable<void()> task);
  void RunTasks();
  // The own thread's.
  absl::StatusOr<Region> Map(const std::string& name, const std::string& raw_handle,
                             int64_t device_id, uint64_t byte_size);

  const std::string library_;
  std::atomic<bool> available_{false};
  std::unique_ptr<Driver> driver_;  // null: there is none; set before available_
  std::string problem_;             // why there is none

  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::deque<absl::AnyInvocable<void()>> tasks_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace caravan
