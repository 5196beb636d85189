// What this machine can do at most, measured in the same process as the operators: the ceilings
// that the benchmarks report shares of.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "kernels/cpu_backend.h"

namespace caravan {

// Runs `body(thread)` on CpuThreads() threads at once; returns the seconds until the last is done.
inline double SecondsOnAllThreads(const std::function<void(int)>& body) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 1; t < CpuThreads(); ++t) threads.emplace_back(body, t);
  body(0);
  for (std::thread& thread : threads) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Streaming reads from memory, bytes per second, all threads together: the best of several passes
// over 64 MiB each (beyond any cache), eight independent sums so that latency does not count.
inline double ReadBytesPerSecond() {
  static const double measured = [] {
    constexpr size_t kWords = (size_t{64} << 20) / sizeof(uint64_t);
    std::vector<std::vector<uint64_t>> memory(static_cast<size_t>(CpuThreads()));
    for (auto& part : memory) part.assign(kWords, 1);
    double best = 0;
    for (int pass = 0; pass < 8; ++pass) {
      const double seconds = SecondsOnAllThreads([&](int thread) {
        uint64_t sums[8] = {};
        const uint64_t* words = memory[static_cast<size_t>(thread)].data();
        for (size_t i = 0; i < kWords; i += 8) {
          for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
        }
        benchmark::DoNotOptimize(sums);
      });
      best = std::max(best, static_cast<double>(memory.size() * kWords * 8) / seconds);
    }
    return best;
  }();
  return measured;
}

// Twelve independent chains of vector multiply-adds, Lanes floats each: more than latency times
// throughput of any core so far.
#define CARAVAN_FMA_CHAINS(Lanes)                                                    \
  typedef float Vector __attribute__((vector_size((Lanes)*4)));                      \
  Vector sums[12] = {};                                                              \
  Vector x = {};                                                                     \
  for (int lane = 0; lane < (Lanes); ++lane) x[lane] = 0.999f;                       \
  for (int64_t i = 0; i < iterations; ++i) {                                         \
    _Pragma("GCC unroll 12") for (int c = 0; c < 12; ++c) sums[c] = sums[c] * x + x; \
  }                                                                                  \
  benchmark::DoNotOptimize(sums)

#ifdef __x86_64__
__attribute__((target("avx512f,fma,prefer-vector-width=512"))) inline void FmaChainsAvx512(
    int64_t iterations) {
  CARAVAN_FMA_CHAINS(16);
}
__attribute__((target("avx2,fma"))) inline void FmaChainsAvx2(int64_t iterations) {
  CARAVAN_FMA_CHAINS(8);
}
#endif
inline void FmaChainsPortable(int64_t iterations) { CARAVAN_FMA_CHAINS(4); }
#undef CARAVAN_FMA_CHAINS

// Multiply-adds in registers, floating-point operations per second (two each), all threads
// together, with the active instruction set.
inline double FlopsPerSecond() {
  static const double measured = [] {
    constexpr int64_t kIterations = 4'000'000;
    void (*chains)(int64_t) = FmaChainsPortable;
    double lanes = 4;
#ifdef __x86_64__
    if (ActiveCpuIsa() == CpuIsa::kAvx2) {
      chains = FmaChainsAvx2;
      lanes = 8;
    } else if (ActiveCpuIsa() == CpuIsa::kAvx512) {
      chains = FmaChainsAvx512;
      lanes = 16;
    }
#endif
    double best = 0;
    for (int pass = 0; pass < 5; ++pass) {
      const double seconds = SecondsOnAllThreads([&](int) { chains(kIterations); });
      best = std::max(best, 2.0 * 12 * lanes * kIterations * CpuThreads() / seconds);
    }
    return best;
  }();
  return measured;
}

// Times a benchmark's loop by the wall clock, and reports what it reached and which share of the
// ceiling that is:
//   const Stopwatch stopwatch;
//   while (state.KeepRunning()) …
//   stopwatch.ReportBytes(state, bytes of one iteration);
class Stopwatch {
 public:
  // Bytes read and written, against the ceiling of streaming reads. Above 100 % the data was in a
  // cache.
  void ReportBytes(benchmark::State& state, double bytes) const {
    const double rate = bytes * static_cast<double>(state.iterations()) / Seconds();
    state.counters["GB/s"] = rate * 1e-9;
    state.counters["read_%"] = 100 * rate / ReadBytesPerSecond();
  }
  // Floating-point operations, against the ceiling of multiply-adds.
  void ReportFlops(benchmark::State& state, double flops) const {
    const double rate = flops * static_cast<double>(state.iterations()) / Seconds();
    state.counters["GFLOP/s"] = rate * 1e-9;
    state.counters["fma_%"] = 100 * rate / FlopsPerSecond();
  }

 private:
  // To the first report: measuring the ceilings must not count.
  double Seconds() const {
    if (seconds_ == 0) {
      seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    return seconds_;
  }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  mutable double seconds_ = 0;
};

}  // namespace caravan
