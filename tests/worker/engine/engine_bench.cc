// What the engine itself costs per step, over a runner that takes no time.
#include <benchmark/benchmark.h>

#include <deque>
#include <utility>
#include <vector>

#include "worker/engine/block_hash.h"
#include "worker/engine/engine.h"

namespace caravan {
namespace {

class InstantRunner : public ModelRunner {
 public:
  explicit InstantRunner(const RunnerLimits& limits) : limits_(limits) {}

  const RunnerLimits& limits() const override { return limits_; }
  absl::Status Submit(const StepPlan& plan) override {
    StepResult result;
    result.step = plan.step;
    for (const SlotWork& work : plan.work) {
      if (work.sample) result.slots.push_back({work.slot, {EmittedToken()}});
    }
    results_.push_back(std::move(result));
    return absl::OkStatus();
  }
  absl::StatusOr<StepResult> Collect() override {
    StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }
  absl::Status Recover(absl::Duration timeout) override { return absl::OkStatus(); }

 private:
  const RunnerLimits limits_;
  std::deque<StepResult> results_;
};

constexpr int32_t kContext = 1 << 20;

RunnerLimits Limits() {
  return {.block_tokens = 16,
          .num_blocks = 100000,
          .max_slots = 256,
          .max_batch_tokens = 8192,
          .max_context_tokens = kContext,
          .vocab_size = 32000,
          .max_steps_in_flight = 2};
}

Request MakeRequest(RequestKey key, int32_t prompt_tokens, int32_t max_tokens) {
  Request request;
  request.key = key;
  for (int32_t i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<int32_t>(key * 31 + i) % 32000);
  }
  request.sampling.max_tokens = max_tokens;
  return request;
}

// All sequences decode: plan, submit, collect, deliver.
void DecodeStep(benchmark::State& state) {
  const auto sequences = static_cast<int32_t>(state.range(0));
  InstantRunner runner(Limits());
  EngineOptions options;
  options.max_batch_tokens = 8192;
  options.max_prefill_chunk_tokens = 8192;
  Engine engine(options, &runner, [](const std::vector<TokenEvent>& events) {
    benchmark::DoNotOptimize(events.data());
  });
  for (int32_t i = 1; i <= sequences; ++i) {
    if (!engine.Submit(MakeRequest(i, 500, kContext)).ok()) state.SkipWithError("refused");
  }
  for (int32_t i = 0; i < 100; ++i) engine.StepOnce();
  for (auto step : state) engine.StepOnce();
  state.counters["sequences"] = engine.Stats().running_sequences;
}
// So few steps that nothing ends, and all fit the pool.
BENCHMARK(DecodeStep)->Arg(1)->Arg(32)->Arg(256)->Iterations(4000)->Unit(benchmark::kMicrosecond);

// A prompt arrives, is found in the cache but for its end, and leaves after one token.
void CachedPrompt(benchmark::State& state) {
  InstantRunner runner(Limits());
  EngineOptions options;
  options.max_prefill_chunk_tokens = 8192;
  options.max_batch_tokens = 8192;
  Engine engine(options, &runner, [](const std::vector<TokenEvent>& events) {
    benchmark::DoNotOptimize(events.data());
  });
  const Request request = MakeRequest(1, static_cast<int32_t>(state.range(0)), 1);
  for (auto prompt : state) {
    if (!engine.Submit(request).ok()) state.SkipWithError("refused");
    while (engine.StepOnce()) {
    }
  }
  state.counters["cached_tokens"] = benchmark::Counter(
      static_cast<double>(engine.Stats().cached_tokens), benchmark::Counter::kAvgIterations);
}
BENCHMARK(CachedPrompt)->Arg(128)->Arg(4096)->Unit(benchmark::kMicrosecond);

void HashOneBlock(benchmark::State& state) {
  const std::vector<int32_t> tokens(16, 7);
  BlockHash hash = RootHash(0, 0);
  for (auto block : state) benchmark::DoNotOptimize(hash = HashBlock(hash, tokens));
}
BENCHMARK(HashOneBlock);

}  // namespace
}  // namespace caravan
