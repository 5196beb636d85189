// Loops over threads for the CPU twins.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu_backend.h"

namespace caravan::cpu {

// About as many operations as are done in the time that it takes to hand out the parts.
constexpr int64_t kParallelThreshold = int64_t{1} << 16;
// Parts for each thread: where another process takes a core away, the others take over.
constexpr int64_t kPartsPerThread = 4;

// Threads worth using for `operations` multiply-adds (or elements moved).
inline int ThreadsFor(int64_t operations) {
  if (operations < kParallelThreshold) return 1;
  return static_cast<int>(std::min<int64_t>(CpuThreads(), operations / (kParallelThreshold / 2)));
}

// body(begin, end) over [0, n) in contiguous parts, whose borders are multiples of `grain`.
template <typename Body>
void ParallelFor(int64_t n, int64_t grain, int64_t operations, const Body& body) {
  if (n <= 0) return;
  const int64_t grains = (n + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(ThreadsFor(operations), grains));
  if (threads == 1) {
    body(int64_t{0}, n);
    return;
  }
  struct Context {
    const Body& body;
    int64_t n, grain, grains, parts;
  } context{body, n, grain, grains,
            std::min({grains, threads * kPartsPerThread, operations / (kParallelThreshold / 4)})};
  RunParts(
      static_cast<int>(context.parts), threads,
      [](void* untyped, int part) {
        const Context& c = *static_cast<const Context*>(untyped);
        const int64_t begin = c.grains * part / c.parts * c.grain;
        c.body(begin, std::min(c.n, c.grains * (part + 1) / c.parts * c.grain));
      },
      &context);
}

// body(item) for each of [0, n), items of unequal cost, the last ones first.
template <typename Body>
void ParallelForEach(int64_t n, int64_t operations, const Body& body) {
  const int threads = static_cast<int>(std::min<int64_t>(ThreadsFor(operations), n));
  if (threads <= 1) {
    for (int64_t item = 0; item < n; ++item) body(item);
    return;
  }
  RunParts(
      static_cast<int>(n), threads,
      [](void* untyped, int part) { (*static_cast<const Body*>(untyped))(part); },
      const_cast<Body*>(&body));
}

}  // namespace caravan::cpu
