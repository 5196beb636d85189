#include "kernels/cpu_backend.h"

#include <sched.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/primitives.h"

namespace caravan {
namespace {

#ifdef __x86_64__
// Clang's __builtin_cpu_supports does not know its name.
bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

CpuIsa IsaFromEnvironment() {
  const char* name = std::getenv("CARAVAN_CPU_ISA");
  if (name == nullptr || *name == '\0') return BestCpuIsa();
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (std::strcmp(name, NameOf(isa)) != 0) continue;
    CARAVAN_CHECK(isa <= BestCpuIsa(), "CARAVAN_CPU_ISA=", name, ", but this machine has only ",
                  NameOf(BestCpuIsa()));
    return isa;
  }
  CARAVAN_CHECK(false, "CARAVAN_CPU_ISA=", name, ": not one of portable, avx2, avx512");
}

std::atomic<CpuIsa>& Isa() {
  static std::atomic<CpuIsa> isa = IsaFromEnvironment();
  return isa;
}

int DefaultThreads() {
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr) {
    if (const int threads = std::atoi(text); threads >= 1) return threads;
  }
  cpu_set_t allowed;  // not more than a container or taskset leaves to this process
  return sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? std::max(1, CPU_COUNT(&allowed))
                                                              : 1;
}

std::atomic<int>& Threads() {
  static std::atomic<int> threads = DefaultThreads();
  return threads;
}

}  // namespace

const char* NameOf(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
  }
  return "unknown ISA";
}

CpuIsa BestCpuIsa() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !HasF16c()) {
    return CpuIsa::kPortable;
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return CpuIsa::kAvx512;
  }
  return CpuIsa::kAvx2;
#else
  return CpuIsa::kPortable;
#endif
}

CpuIsa ActiveCpuIsa() { return Isa().load(std::memory_order_relaxed); }

void SetCpuIsa(CpuIsa isa) {
  CARAVAN_CHECK(isa <= BestCpuIsa(), NameOf(isa), " against ", NameOf(BestCpuIsa()));
  Isa().store(isa, std::memory_order_relaxed);
}

int CpuThreads() { return Threads().load(std::memory_order_relaxed); }

void SetCpuThreads(int threads) {
  CARAVAN_CHECK(threads >= 1, threads);
  Threads().store(threads, std::memory_order_relaxed);
}

namespace cpu {

const Primitives& ActivePrimitives() {
#ifdef __x86_64__
  switch (ActiveCpuIsa()) {
    case CpuIsa::kAvx512:
      return kAvx512Primitives;
    case CpuIsa::kAvx2:
      return kAvx2Primitives;
    case CpuIsa::kPortable:
      break;
  }
#endif
  return kPortablePrimitives;
}

}  // namespace cpu
}  // namespace caravan
