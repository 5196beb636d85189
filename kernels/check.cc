#include "kernels/check.h"

#include <cstdio>
#include <cstdlib>

namespace caravan::internal {

void KernelCheckFailed(const char* file, int line, const char* condition,
                       const std::string& detail) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\n", file, line, condition,
               detail.empty() ? "" : ": ", detail.c_str());
  std::abort();
}

}  // namespace caravan::internal
