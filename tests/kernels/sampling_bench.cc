#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/device/device_memory.h"
#include "kernels/sampling.h"
#include "kernels/slot_tables.h"
#include "tests/kernels/ceiling.h"
#include "tests/kernels/cuda_ceiling.h"
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

#ifdef CARAVAN_HAS_CUDA

// Rows whose draws are spread like a language model's: some 30 likely tokens. Each launch of the
// graph reads logits of its own, as many as fit in 512 MiB but at most 16 times.
void RunSamplingCuda(benchmark::State& state, const SamplingRow& row, int64_t history_tokens,
                     double scale) {
  CudaStream* stream = BenchStream(state);
  if (stream == nullptr) return;
  const int64_t rows = state.range(0);
  const int64_t vocab = state.range(1);
  const int64_t row_bytes = vocab * 4;
  const int64_t copies =
      std::clamp((int64_t{512} << 20) / (rows * row_bytes), int64_t{2}, int64_t{16});
  const DeviceMemory logits = DeviceMemory::Allocate(copies * rows * row_bytes);
  const DeviceMemory parameters = DeviceMemory::Allocate(rows * int64_t{sizeof(SamplingRow)});
  const DeviceMemory outputs = DeviceMemory::Allocate(rows * int64_t{sizeof(SamplingOutput)});
  const DeviceMemory history = DeviceMemory::Allocate((history_tokens + 1) * 4);
  const std::vector<float> host_logits = HashedLogits(1, scale, 0, vocab);
  for (int64_t r = 0; r < copies * rows; ++r) {
    CopyToDevice(logits.as<float>() + r * vocab, host_logits.data(), row_bytes, *stream);
  }
  std::vector<int32_t> host_history(static_cast<size_t>(history_tokens));
  for (size_t i = 0; i < host_history.size(); ++i) {
    host_history[i] = static_cast<int32_t>(i * 2654435761u % static_cast<uint64_t>(vocab));
  }
  CopyToDevice(history.data(), host_history.data(), history_tokens * 4, *stream);
  std::vector<SamplingRow> host_rows(static_cast<size_t>(rows), row);
  for (size_t r = 0; r < host_rows.size(); ++r) {
    host_rows[r].position = static_cast<int64_t>(r);
    host_rows[r].history = {history.as<int32_t>(), host_history.size()};
  }
  CopyToDevice(parameters.data(), host_rows.data(), parameters.bytes(), *stream);
  stream->Synchronize();
  const double seconds = CudaSeconds(*stream, static_cast<int>(copies), [&](int i) {
    const MatrixView view = DenseMatrix(static_cast<void*>(logits.as<float>() + i * rows * vocab),
                                        DType::kFloat32, rows, vocab);
    Sample(view, static_cast<int32_t>(vocab), {parameters.as<SamplingRow>(), host_rows.size()},
           {outputs.as<SamplingOutput>(), host_rows.size()}, DeviceStream::Cuda(*stream));
  });
  while (state.KeepRunning()) {
    ReportCuda(state, *stream,
               {.seconds = seconds, .bytes = static_cast<double>(rows * row_bytes)});
  }
}

#define CARAVAN_SAMPLING_CUDA_BENCHMARK(name, history, scale, ...)    \
  void BM_SampleCuda##name(benchmark::State& state) {                 \
    RunSamplingCuda(state, SamplingRow(__VA_ARGS__), history, scale); \
  }                                                                   \
  BENCHMARK(BM_SampleCuda##name)                                      \
      ->ArgNames({"rows", "vocab"})                                   \
      ->ArgsProduct({{1, 16, 64, 256}, {32000, 128256}})              \
      ->Iterations(1)                                                 \
      ->UseManualTime()

CARAVAN_SAMPLING_CUDA_BENCHMARK(Greedy, 0, 64, {.temperature = 0});
CARAVAN_SAMPLING_CUDA_BENCHMARK(Temperature, 0, 64, {.temperature = 0.8f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(TopK, 0, 64, {.temperature = 0.8f, .top_k = 50});
CARAVAN_SAMPLING_CUDA_BENCHMARK(TopKTopP, 0, 64, {.temperature = 0.8f, .top_k = 50, .top_p = 0.9f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(TopP, 0, 64, {.temperature = 0.8f, .top_p = 0.95f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(FlatTopP, 0, 1, {.temperature = 0.8f, .top_p = 0.95f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(FlatSmallTopP, 0, 1, {.temperature = 0.8f, .top_p = 0.3f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(FlatTopK, 0, 1, {.temperature = 0.8f, .top_k = 1000});
CARAVAN_SAMPLING_CUDA_BENCHMARK(FlatMinP, 0, 1, {.temperature = 0.8f, .min_p = 0.5f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(FlatTopKTopP, 0, 1, {.top_k = 5000, .top_p = 0.5f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(MinP, 0, 64, {.temperature = 0.8f, .min_p = 0.05f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(Penalties, 2048, 64,
                                {.repetition_penalty = 1.2f, .temperature = 0.8f});
CARAVAN_SAMPLING_CUDA_BENCHMARK(Logprobs, 0, 64, {.temperature = 0.8f, .num_logprobs = 5});

// The bookkeeping of a decoding step: StoreSampled of the last one, BuildStepInputs of this one.
void BM_StepInputsCuda(benchmark::State& state) {
  CudaStream* stream = BenchStream(state);
  if (stream == nullptr) return;
  const auto n = static_cast<size_t>(state.range(0));
  constexpr int64_t kPositions = 8193;
  const auto allocate = [](size_t bytes) {
    return DeviceMemory::Allocate(static_cast<int64_t>(bytes));
  };
  const DeviceMemory tokens = allocate(n * kPositions * 4);
  const DeviceMemory lists = allocate(n * kMaxSlotListWords * 4);
  const DeviceMemory sampling = allocate(n * sizeof(SlotSampling));
  const DeviceMemory words = allocate(6 * (n + 1) * 4);
  const DeviceMemory made = allocate(n * sizeof(SamplingRow));
  const DeviceMemory biases = allocate(n * kMaxComposedBiases * sizeof(TokenBias));
  const DeviceMemory outputs = allocate(n * sizeof(SamplingOutput));
  const DeviceMemory rows = allocate(n * sizeof(StepRow));
  const SlotTables tables = {.num_slots = static_cast<int32_t>(n),
                             .tokens = tokens.as<int32_t>(),
                             .token_stride = kPositions,
                             .lists = lists.as<int32_t>(),
                             .list_stride = kMaxSlotListWords,
                             .sampling = sampling.as<SlotSampling>()};
  std::vector<StepRow> host_rows(n);
  std::vector<SlotSampling> host_sampling(n);
  for (size_t r = 0; r < n; ++r) {
    const auto i = static_cast<int32_t>(r);
    host_rows[r] = {.slot = i, .start_position = 1000, .first_token = i, .sample_row = i};
  }
  CopyToDevice(rows.data(), host_rows.data(), rows.bytes(), *stream);
  CopyToDevice(sampling.data(), host_sampling.data(), sampling.bytes(), *stream);
  int32_t* word = words.as<int32_t>();
  const auto take = [&](size_t count) {
    const std::span<int32_t> taken(word, count);
    word += n + 1;
    return taken;
  };
  const StepInputs inputs = {.token_ids = take(n),
                             .rope_rows = take(n),
                             .query_starts = take(n + 1),
                             .context_lengths = take(n),
                             .table_rows = take(n),
                             .logit_rows = take(n),
                             .sampling = {made.as<SamplingRow>(), n},
                             .biases = {biases.as<TokenBias>(), n * kMaxComposedBiases}};
  const std::span<const StepRow> step(rows.as<StepRow>(), n);
  const DeviceStream on_stream = DeviceStream::Cuda(*stream);
  const double seconds = CudaSeconds(*stream, 16, [&](int) {
    StoreSampled(step, {outputs.as<SamplingOutput>(), n}, tables, on_stream);
    BuildStepInputs(tables, step, 128256, inputs, on_stream);
  });
  while (state.KeepRunning()) ReportCuda(state, *stream, {.seconds = seconds});
}
BENCHMARK(BM_StepInputsCuda)->ArgName("rows")->Arg(1)->Arg(256)->Iterations(1)->UseManualTime();

#endif

}  // namespace
}  // namespace caravan
