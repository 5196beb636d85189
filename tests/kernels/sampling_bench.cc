#include <benchmark/benchmark.h>

#include "kernels/sampling.h"
#include "tests/kernels/ceiling.h"
#include "tests/kernels/op_fixture.h"
#include "tests/kernels/sampling_golden_fixture.h"

namespace caravan {
namespace {

// Rows of a vocabulary, with one kind of parameters. The copy of the logits, which Sample
// overwrites, is part of the time and of the bytes.
void RunSampling(benchmark::State& state, const SamplingRow& row) {
  const int64_t rows = state.range(0);
  const int64_t vocab = state.range(1);
  const std::vector<float> logits = HashedLogits(1, 32, 0, vocab);
  Tensor work(DType::kFloat32, rows, vocab);
  std::vector<SamplingRow> parameters(static_cast<size_t>(rows), row);
  std::vector<SamplingOutput> outputs(parameters.size());
  int64_t position = 0;
  const Stopwatch stopwatch;
  while (state.KeepRunning()) {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(work.view().row(r), logits.data(), logits.size() * sizeof(float));
      parameters[static_cast<size_t>(r)].position = position++;
    }
    Sample(work.view(), static_cast<int32_t>(vocab), parameters, outputs, DeviceStream::Cpu());
  }
  stopwatch.ReportBytes(state, 3.0 * static_cast<double>(rows * vocab) * sizeof(float));
}

#define CARAVAN_SAMPLING_BENCHMARK(name, ...)                                                     \
  void BM_Sample##name(benchmark::State& state) { RunSampling(state, SamplingRow(__VA_ARGS__)); } \
  BENCHMARK(BM_Sample##name)                                                                      \
      ->ArgNames({"rows", "vocab"})                                                               \
      ->ArgsProduct({{1, 16}, {32000, 128256}})                                                   \
      ->UseRealTime()

CARAVAN_SAMPLING_BENCHMARK(Greedy, {.temperature = 0});
CARAVAN_SAMPLING_BENCHMARK(Temperature, {.temperature = 0.8f});
CARAVAN_SAMPLING_BENCHMARK(TopK, {.temperature = 0.8f, .top_k = 50});
CARAVAN_SAMPLING_BENCHMARK(TopP, {.temperature = 0.8f, .top_p = 0.95f});
CARAVAN_SAMPLING_BENCHMARK(FlatTopP, {.temperature = 50.0f, .top_p = 0.95f});
CARAVAN_SAMPLING_BENCHMARK(Logprobs, {.temperature = 0.8f, .num_logprobs = 5});

}  // namespace
}  // namespace caravan
