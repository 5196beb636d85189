#include "kernels/device/dynamic_library.h"

#include <dlfcn.h>

#include "kernels/check.h"

namespace caravan {

DynamicLibrary::DynamicLibrary(const char* file, const char* folder) : file_(file) {
  handle_ = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (handle_ != nullptr) return;
  problem_ = dlerror();
  handle_ = dlopen((std::string(folder) + "/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ != nullptr) problem_.clear();
}

void* DynamicLibrary::FindAddress(const char* function) const {
  CARAVAN_CHECK(handle_ != nullptr, problem_);
  void* address = dlsym(handle_, function);
  CARAVAN_CHECK(address != nullptr, file_, " has no ", function);
  return address;
}

}  // namespace caravan
