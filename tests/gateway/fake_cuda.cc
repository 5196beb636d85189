// A stand-in for NVIDIA's driver: two GPUs whose memory is the host's. A handle is the name of a
// shared memory object, and what it is mapped with is its size.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <map>
#include <mutex>

namespace {

constexpr int kInvalidValue = 1;
constexpr int kInvalidDevice = 101;
constexpr int kInvalidContext = 201;
constexpr int kGpus = 2;

struct Handle {
  char name[64];
};

std::mutex mutex;
std::map<unsigned long long, size_t> mappings;  // by address
int retained[kGpus] = {0, 0};
thread_local void* current = nullptr;

}  // namespace

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int* count) {
  *count = kGpus;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < kGpus ? 0 : kInvalidDevice;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  *context = &retained[device];
  ++retained[device];
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (retained[device] == 0) return kInvalidContext;
  --retained[device];
  return 0;
}
int cuCtxPushCurrent_v2(void* context) {
  if (current != nullptr) return kInvalidContext;  // one is enough here
  const std::lock_guard<std::mutex> lock(mutex);
  if (*static_cast<int*>(context) == 0) return kInvalidContext;
  current = context;
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  if (current == nullptr) return kInvalidContext;
  *context = current;
  current = nullptr;
  return 0;
}
int cuCtxSynchronize() { return current == nullptr ? kInvalidContext : 0; }
int cuIpcOpenMemHandle_v2(unsigned long long* pointer, Handle handle, unsigned flags) {
  if (current == nullptr || flags != 1) return kInvalidContext;
  handle.name[sizeof(handle.name) - 1] = '\0';
  const int fd = shm_open(handle.name, O_RDWR, 0);
  if (fd < 0) return kInvalidValue;
  struct stat info = {};
  fstat(fd, &info);
  const auto bytes = static_cast<size_t>(info.st_size);
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (data == MAP_FAILED) return kInvalidValue;
  *pointer = reinterpret_cast<unsigned long long>(data);
  const std::lock_guard<std::mutex> lock(mutex);
  mappings[*pointer] = bytes;
  return 0;
}
int cuIpcCloseMemHandle(unsigned long long pointer) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = mappings.find(pointer);
  if (current == nullptr || found == mappings.end()) return kInvalidValue;
  munmap(std::bit_cast<void*>(pointer), found->second);
  mappings.erase(found);
  return 0;
}
int cuMemGetAddressRange_v2(unsigned long long* base, size_t* bytes, unsigned long long pointer) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = mappings.find(pointer);
  if (found == mappings.end()) return kInvalidValue;
  *base = found->first;
  *bytes = found->second;
  return 0;
}
int cuMemcpyDtoH_v2(void* to, unsigned long long from, size_t bytes) {
  if (current == nullptr) return kInvalidContext;
  std::memcpy(to, std::bit_cast<const void*>(from), bytes);
  return 0;
}
int cuMemcpyHtoD_v2(unsigned long long to, const void* from, size_t bytes) {
  if (current == nullptr) return kInvalidContext;
  std::memcpy(std::bit_cast<void*>(to), from, bytes);
  return 0;
}
int cuGetErrorString(int error, const char** text) {
  *text = error == kInvalidValue ? "invalid argument" : "invalid context";
  return 0;
}
// Of the stand-in alone, for tests.
int FakeCudaRetained(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  return retained[device];
}
}
