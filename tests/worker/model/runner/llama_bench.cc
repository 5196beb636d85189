// Speed of the bundled model on one rank, and of loading. Run alone on the machine:
//   worker_model_bench --benchmark_filter=...
#include <benchmark/benchmark.h>

#include <memory>

#include "common/status.h"
#include "kernels/cpu_backend.h"
#include "worker/model/loading/load_llama.h"
#include "worker/model/runner/llama_runner.h"

namespace caravan {
namespace {

constexpr int32_t kMaxSequences = 64;
constexpr int32_t kContext = 128;

LoadOptions Options(const char* load_format) {
  LoadOptions options;
  options.model_folder = CARAVAN_SOURCE_DIR "/models/demo";
  options.load_format = load_format;
  options.max_batch_tokens = 512;
  options.max_logit_rows = kMaxSequences;
  return options;
}

std::unique_ptr<LlamaRunner> MakeRunner() {
  auto model = LoadLlama(Options("auto"));
  CARAVAN_CHECK(model.ok(), std::string(model.status().message()));
  LlamaRunnerOptions options;
  options.num_blocks = 2048;
  options.max_slots = kMaxSequences;
  auto runner =
      LlamaRunner::Create(*std::move(model), std::make_shared<SingleRankCollectives>(), options);
  CARAVAN_CHECK(runner.ok(), std::string(runner.status().message()));
  return *std::move(runner);
}

void Run(LlamaRunner& runner, const StepPlan& plan) {
  CARAVAN_CHECK(runner.Submit(plan).ok());
  CARAVAN_CHECK(runner.Collect().ok());
}

// A sequence of `tokens` tokens in slot `slot`, with blocks for twice as many; runs them all.
StepPlan Prefill(int32_t slot, int32_t tokens) {
  StepPlan plan;
  SlotSetup setup;
  setup.slot = slot;
  for (int32_t i = 0; i < tokens; ++i) setup.tokens.push_back(3 + i % 2000);
  setup.prompt_tokens = tokens;
  setup.sampling.temperature = 0;
  plan.setups.push_back(setup);
  SlotWork work;
  work.slot = slot;
  work.num_tokens = tokens;
  work.sample = true;
  NewBlocks more;
  for (int32_t b = 0; b * 16 < 2 * tokens; ++b) more.blocks.push_back(slot * 32 + b);
  work.new_blocks.push_back(more);
  plan.work.push_back(work);
  return plan;
}

// One token for each of range(0) sequences with 128 tokens behind them, on range(1) threads.
void BM_Decode(benchmark::State& state) {
  SetCpuThreads(static_cast<int>(state.range(1)));
  const auto runner = MakeRunner();
  const auto sequences = static_cast<int32_t>(state.range(0));
  for (int32_t slot = 0; slot < sequences; ++slot) Run(*runner, Prefill(slot, kContext));
  StepPlan plan;
  for (int32_t slot = 0; slot < sequences; ++slot) {
    SlotWork work;
    work.slot = slot;
    work.start_position = kContext;  // the same one again: the context stays as it is
    work.num_tokens = 1;
    work.sample = true;
    plan.work.push_back(work);
  }
  for (auto _ : state) Run(*runner, plan);
  state.SetItemsProcessed(state.iterations() * sequences);
}
BENCHMARK(BM_Decode)
    ->ArgsProduct({{1, 8, 64}, {1, 2}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// A prompt of range(0) tokens in one step, on range(1) threads.
void BM_Prefill(benchmark::State& state) {
  SetCpuThreads(static_cast<int>(state.range(1)));
  const auto runner = MakeRunner();
  const StepPlan plan = Prefill(0, static_cast<int32_t>(state.range(0)));
  for (auto _ : state) Run(*runner, plan);
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_Prefill)
    ->ArgsProduct({{16, 512}, {1, 2}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Weights in place, from the page cache and from their names.
void BM_Load(benchmark::State& state) {
  const LoadOptions options = Options(state.range(0) == 0 ? "auto" : "dummy");
  state.SetLabel(options.load_format);
  int64_t bytes = 0;
  for (auto _ : state) {
    LoadOptions with_progress = options;
    with_progress.progress = [&](int64_t, int64_t total) { bytes = total; };
    benchmark::DoNotOptimize(LoadLlama(with_progress));
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}
BENCHMARK(BM_Load)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace caravan
