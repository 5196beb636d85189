// The engine's own thread among others: what ThreadSanitizer watches.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/worker/engine/engine_harness.h"

namespace caravan {
namespace {

// Counts the ends of requests; clients wait for them.
class Clients {
 public:
  EventSink sink() {
    return [this](const std::vector<TokenEvent>& events) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const TokenEvent& event : events) {
          tokens_[event.key] += event.tokens.size();
          if (event.finish != FinishReason::kNone) ends_[event.key] = event.finish;
        }
      }
      changed_.notify_all();
    };
  }
  FinishReason WaitForEnd(RequestKey key) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return ends_.contains(key); });
    return ends_[key];
  }
  void WaitForTokens(RequestKey key, size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return tokens_[key] >= count || ends_.contains(key); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<RequestKey, FinishReason> ends_;
  std::map<RequestKey, size_t> tokens_;
};

class EngineThreadTest : public ::testing::TestWithParam<bool> {
 protected:
  EngineThreadTest() {
    limits_.block_tokens = 4;
    limits_.num_blocks = 40;
    limits_.max_slots = 8;
    limits_.max_batch_tokens = 64;
    limits_.max_context_tokens = 1000;
    limits_.vocab_size = 1000;
    limits_.max_steps_in_flight = 2;
    options_.pipelined = GetParam();
    options_.check_invariants = true;
  }

  RunnerLimits limits_;
  EngineOptions options_;
  Clients clients_;
};

INSTANTIATE_TEST_SUITE_P(Loops, EngineThreadTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? std::string("Pipelined") : std::string("Simple");
});

TEST_P(EngineThreadTest, ServesManyThreadsAtOnce) {
  FakeModelRunner runner(limits_);
  Engine engine(options_, &runner, clients_.sink());
  engine.Start();
  std::atomic<int32_t> answered = 0;
  std::vector<std::thread> threads;
  for (int32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int32_t i = 0; i < 100; ++i) {
        const RequestKey key = 1000 * t + i;
        ASSERT_TRUE(engine.Submit(MakeRequest(key, Tokens(1 + i % 30, t), 1 + i % 20)).ok());
        if (i % 3 == 0) engine.Cancel(key);
        if (i % 7 == 0) {
          const EngineStats stats = engine.Stats();
          EXPECT_EQ(stats.free_blocks + stats.cached_blocks + stats.used_blocks, 40);
        }
        if (i % 2 == 0) answered += clients_.WaitForEnd(key) == FinishReason::kLength;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(engine.Drain(absl::InfiniteDuration()));
  EXPECT_GT(answered, 100);
  const EngineStats stats = engine.Stats();
  EXPECT_EQ(stats.finished + stats.cancelled, 400u);
  EXPECT_EQ(stats.used_blocks, 0);
  engine.Stop();
  EXPECT_EQ(runner.errors(), std::vector<std::string>());
}

TEST_P(EngineThreadTest, StopEndsWhatRunsAndWhatWaits) {
  FakeModelRunner runner(limits_);
  Engine engine(options_, &runner, clients_.sink());
  engine.Start();
  for (RequestKey key = 1; key <= 20; ++key) {
    ASSERT_TRUE(engine.Submit(MakeRequest(key, Tokens(4), 1000000)).ok());
  }
  clients_.WaitForTokens(1, 10);
  engine.Stop();
  int32_t failed = 0;
  for (RequestKey key = 1; key <= 20; ++key) {
    failed += clients_.WaitForEnd(key) == FinishReason::kError;
  }
  EXPECT_GT(failed, 0);
  EXPECT_EQ(runner.steps_in_flight(), 0);
  EXPECT_TRUE(absl::IsUnavailable(engine.Submit(MakeRequest(21, Tokens(4), 5))));
}

TEST_P(EngineThreadTest, SubmitsThatRaceWithStopAllEnd) {
  FakeModelRunner runner(limits_);
  Engine engine(options_, &runner, clients_.sink());
  engine.Start();
  std::thread client([&] {
    RequestKey key = 1;
    while (engine.Submit(MakeRequest(key, Tokens(4), 5)).ok()) clients_.WaitForEnd(key++);
  });
  clients_.WaitForEnd(1);
  engine.Stop();
  client.join();
}

// A runner whose Collect ends when the test says so.
class GatedRunner : public FakeModelRunner {
 public:
  using FakeModelRunner::FakeModelRunner;
  absl::StatusOr<StepResult> Collect() override {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      ++collecting_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return allowed_ > 0; });
      --allowed_;
    }
    return FakeModelRunner::Collect();
  }
  void Allow(int32_t steps) {
    const std::lock_guard<std::mutex> lock(mutex_);
    allowed_ += steps;
    changed_.notify_all();
  }
  // Until the engine waits for the n-th step, so nothing else moves.
  void WaitForCollect(int32_t n) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return collecting_ >= n; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t collecting_ = 0;
  int32_t allowed_ = 0;
};

TEST_P(EngineThreadTest, SubmitsTheNextStepWhileOneRuns) {
  GatedRunner runner(limits_);
  Engine engine(options_, &runner, clients_.sink());
  ASSERT_TRUE(engine.Submit(MakeRequest(1, Tokens(4), 5)).ok());
  engine.Start();
  runner.WaitForCollect(1);
  EXPECT_EQ(runner.steps_in_flight(), GetParam() ? 2 : 1);
  // Others are not held up by a step that runs.
  EXPECT_TRUE(engine.Submit(MakeRequest(2, Tokens(4), 5)).ok());
  engine.Cancel(1);
  EXPECT_FALSE(engine.Drain(absl::ZeroDuration()));
  runner.Allow(1000);
  EXPECT_EQ(clients_.WaitForEnd(1), FinishReason::kCancelled);
  EXPECT_EQ(clients_.WaitForEnd(2), FinishReason::kLength);
  EXPECT_TRUE(engine.Drain(absl::InfiniteDuration()));
}

}  // namespace
}  // namespace caravan
