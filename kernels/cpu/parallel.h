// Loops over threads for the CPU twins.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu_backend.h"

namespace caravan::cpu {

// About as many operations as are done in the time that it takes to start and join the threads.
constexpr int64_t kParallelThreshold = int64_t{1} << 16;

// Threads worth using for `operations` multiply-adds (or elements moved).
inline int ThreadsFor(int64_t operations) {
  if (operations < kParallelThreshold) return 1;
  return static_cast<int>(std::min<int64_t>(CpuThreads(), operations / (kParallelThreshold / 2)));
}

// body(begin, end) over [0, n) in contiguous parts, whose borders are multiples of `grain`.
template <typename Body>
void ParallelFor(int64_t n, int64_t grain, int64_t operations, const Body& body) {
  const int64_t grains = (n + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(ThreadsFor(operations), grains));
  if (threads <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    const int64_t begin = std::min(n, grains * part / threads * grain);
    const int64_t end = std::min(n, grains * (part + 1) / threads * grain);
    if (begin < end) body(begin, end);
  }
}

// body(item) for each of [0, n), items of unequal cost.
template <typename Body>
void ParallelForEach(int64_t n, int64_t operations, const Body& body) {
  const int threads = static_cast<int>(std::min<int64_t>(ThreadsFor(operations), n));
  if (threads <= 1) {
    for (int64_t item = 0; item < n; ++item) body(item);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t item = 0; item < n; ++item) body(item);
}

}  // namespace caravan::cpu
