#include "tokenizer_service/work_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace caravan {
namespace {

TEST(WorkPool, RunsAllThatItTookBeforeItEnds) {
  std::atomic<int> num_run = 0;
  {
    WorkPool pool(3, 1000);
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(pool.TryPost([&] { ++num_run; }));
  }
  EXPECT_EQ(num_run, 1000);
}

TEST(WorkPool, RefusesWhatWouldWaitTooLong) {
  std::promise<void> started;
  std::promise<void> release;
  WorkPool pool(1, 2);
  ASSERT_TRUE(pool.TryPost([&] {
    started.set_value();
    release.get_future().wait();
  }));
  started.get_future().wait();
  EXPECT_TRUE(pool.TryPost([] {}));
  EXPECT_TRUE(pool.TryPost([] {}));
  EXPECT_FALSE(pool.TryPost([] {}));
  release.set_value();
}

}  // namespace
}  // namespace caravan
