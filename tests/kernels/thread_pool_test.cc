#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

struct Counts {
  std::vector<std::atomic<int>> seen;
  explicit Counts(size_t n) : seen(n) {}
  static void Count(void* context, int part) {
    ++static_cast<Counts*>(context)->seen[static_cast<size_t>(part)];
  }
  bool EachOnce() const {
    for (const auto& count : seen) {
      if (count != 1) return false;
    }
    return true;
  }
};

TEST(ThreadPool, RunsEveryPartOfManyJobsOnce) {
  for (int job = 0; job < 20000; ++job) {
    Counts counts(static_cast<size_t>(job % 9));
    cpu::RunParts(job % 9, 2 + job % 4, Counts::Count, &counts);
    ASSERT_TRUE(counts.EachOnce()) << job;
  }
}

TEST(ThreadPool, ServesCallersAtOnceAndCallsFromWithin) {
  std::vector<std::thread> callers;
  std::atomic<int> failures = 0;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int job = 0; job < 2000; ++job) {
        Counts counts(5);
        cpu::RunParts(5, 3, Counts::Count, &counts);
        if (!counts.EachOnce()) ++failures;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(failures, 0);
  Counts outer(4);
  cpu::RunParts(
      4, 4,
      [](void* context, int part) {
        Counts inner(3);
        cpu::RunParts(3, 3, Counts::Count, &inner);
        if (inner.EachOnce()) Counts::Count(context, part);
      },
      &outer);
  EXPECT_TRUE(outer.EachOnce());
}

TEST(ParallelFor, CoversTheRangeInPartsThatStartAtTheGrain) {
  for (int threads : {1, 2, 5}) {
    const ScopedThreads scoped(threads);
    for (int64_t n : {0, 1, 7, 8, 9, 64, 1000}) {
      for (int64_t operations : {int64_t{0}, int64_t{1} << 17, int64_t{1} << 40}) {
        Counts counts(static_cast<size_t>(n));
        std::atomic<int> unaligned = 0;
        cpu::ParallelFor(n, 8, operations, [&](int64_t begin, int64_t end) {
          if (begin % 8 != 0) ++unaligned;
          for (int64_t i = begin; i < end; ++i) Counts::Count(&counts, static_cast<int>(i));
        });
        EXPECT_TRUE(counts.EachOnce()) << n << " on " << threads;
        EXPECT_EQ(unaligned, 0);
      }
    }
  }
}

}  // namespace
}  // namespace caravan
