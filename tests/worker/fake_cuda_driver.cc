// A stand-in for NVIDIA's driver, libcuda.so.1, whose version is $CARAVAN_FAKE_CUDA_VERSION (13000
// is 13.0) and which answers $CARAVAN_FAKE_CUDA_INIT when it is initialized. All else that the CUDA
// runtime asks for is there, and fails.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

namespace {

constexpr int kUnknownError = 999;  // CUDA_ERROR_UNKNOWN

int Number(const char* variable) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::atoi(text) : kUnknownError;
}

int Fail() { return kUnknownError; }

}  // namespace

extern "C" {
int cuDriverGetVersion(int* version) {
  *version = Number("CARAVAN_FAKE_CUDA_VERSION");
  return 0;
}
// As the real one does, it starts threads of its own, which take the signals of whoever calls.
int cuInit(unsigned) {
  std::thread([] {
    while (true) pause();
  }).detach();
  return Number("CARAVAN_FAKE_CUDA_INIT");
}
int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, int* found);
int cuGetProcAddress(const char* name, void** function, int, unsigned long long) {
  return cuGetProcAddress_v2(name, function, 0, 0, nullptr);
}
int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, int* found) {
  if (found != nullptr) *found = 0;  // CU_GET_PROC_ADDRESS_SUCCESS
  *function = reinterpret_cast<void*>(Fail);
  if (std::strcmp(name, "cuInit") == 0) *function = reinterpret_cast<void*>(cuInit);
  if (std::strcmp(name, "cuDriverGetVersion") == 0) {
    *function = reinterpret_cast<void*>(cuDriverGetVersion);
  }
  if (std::strcmp(name, "cuGetProcAddress") == 0) {
    *function = reinterpret_cast<void*>(cuGetProcAddress_v2);
  }
  return 0;
}
}
