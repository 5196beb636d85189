#include "gateway/triton/cuda_shared_memory.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <future>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

// What a client has on its GPU, as the stand-in for the driver understands it.
class DeviceMemory {
 public:
  explicit DeviceMemory(off_t size) : name_(absl::StrCat("/cuda_test_", getpid(), "_", ++objects)) {
    fd_ = shm_open(name_.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
    EXPECT_EQ(ftruncate(fd_, size), 0);
  }
  ~DeviceMemory() {
    close(fd_);
    shm_unlink(name_.c_str());
  }
  std::string handle() const {
    std::string handle = name_;
    handle.resize(CudaSharedMemory::kHandleBytes);
    return handle;
  }
  int fd() const { return fd_; }

 private:
  static inline int objects = 0;
  const std::string name_;
  int fd_;
};

absl::StatusOr<CudaSharedMemory::Region> Open(CudaSharedMemory& memory, const std::string& handle,
                                              int64_t device, uint64_t byte_size) {
  std::promise<absl::StatusOr<CudaSharedMemory::Region>> opened;
  memory.Open("r", handle, device, byte_size, [&](absl::StatusOr<CudaSharedMemory::Region> region) {
    opened.set_value(std::move(region));
  });
  return opened.get_future().get();
}

// Of the stand-in: contexts of a device that are held.
int Retained(int device) {
  void* const library = dlopen(CARAVAN_FAKE_CUDA, RTLD_NOW);
  const auto retained = reinterpret_cast<int (*)(int)>(dlsym(library, "FakeCudaRetained"));
  const int count = retained(device);
  dlclose(library);
  return count;
}

TEST(CudaSharedMemory, ReadsAndWritesInsideItsRegionAndLetsTheDeviceGo) {
  const DeviceMemory allocation(100);
  CudaSharedMemory memory(CARAVAN_FAKE_CUDA);
  absl::StatusOr<CudaSharedMemory::Region> region = Open(memory, allocation.handle(), 1, 50);
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_TRUE(memory.available());
  EXPECT_EQ((*region)->device_id(), 1);
  EXPECT_EQ(Retained(1), 1);
  ASSERT_TRUE((*region)->Write(5, "hello").ok());
  EXPECT_EQ(*(*region)->Read(5, 5), "hello");
  std::string direct(5, '\0');
  EXPECT_EQ(pread(allocation.fd(), direct.data(), 5, 5), 5);
  EXPECT_EQ(direct, "hello");
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  EXPECT_TRUE((*region)->Read(0, 50).ok());
  for (const auto& [offset, size] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, 51}, {50, 1}, {1, most}, {most, 1}, {most, most}}) {
    EXPECT_EQ((*region)->Read(offset, size).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE((*region)->Write(46, "hello").ok());
  region = absl::CancelledError();
  // Its end is a task before this one.
  EXPECT_FALSE(Open(memory, allocation.handle(), 7, 1).ok());
  EXPECT_EQ(Retained(1), 0);
}

TEST(CudaSharedMemory, WhatCanNotBeMappedIsAnErrorWithTheReason) {
  const DeviceMemory allocation(100);
  CudaSharedMemory memory(CARAVAN_FAKE_CUDA);
  const auto error = [&](const std::string& handle, int64_t device, uint64_t byte_size) {
    const absl::Status status = Open(memory, handle, device, byte_size).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(error("short", 0, 1), HasSubstr("raw_handle has 5 bytes"));
  EXPECT_THAT(error(std::string(64, 'x'), 0, 1), HasSubstr("cuIpcOpenMemHandle: invalid argument"));
  EXPECT_THAT(error(allocation.handle(), 2, 1), HasSubstr("device_id is 2; the gateway has 2"));
  EXPECT_THAT(error(allocation.handle(), -1, 1), HasSubstr("device_id is -1"));
  EXPECT_THAT(error(allocation.handle(), 0, 101), HasSubstr("byte_size is 101"));
  EXPECT_EQ(Retained(0), 0);
}

TEST(CudaSharedMemory, WithoutADriverItIsUnimplemented) {
  CudaSharedMemory memory("libno_such_cuda.so.1");
  const absl::Status status = Open(memory, std::string(64, 'x'), 0, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("NVIDIA's driver is not installed"));
  EXPECT_FALSE(memory.available());
}

TEST(CudaSharedMemory, TheRegistryKeepsKindsApartUnderOneSetOfNames) {
  const DeviceMemory allocation(100);
  CudaSharedMemory memory(CARAVAN_FAKE_CUDA);
  SharedMemoryRegistry registry(true);
  ASSERT_TRUE(registry.Add(*Open(memory, allocation.handle(), 0, 100)).ok());
  EXPECT_EQ(registry.CheckNew("r", 1).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(registry.Find("r").ok());
  EXPECT_TRUE(registry.Status(SharedMemoryKind::kSystem, "")->empty());
  EXPECT_EQ(registry.Status(SharedMemoryKind::kCuda, "")->size(), 1U);
  registry.Unregister(SharedMemoryKind::kSystem, "");
  registry.Unregister(SharedMemoryKind::kSystem, "r");
  EXPECT_TRUE(registry.Find("r").ok());
  registry.Unregister(SharedMemoryKind::kCuda, "r");
  EXPECT_FALSE(registry.Find("r").ok());
}

}  // namespace
}  // namespace caravan
