#include <benchmark/benchmark.h>

#include <chrono>

#include "kernels/device/device_memory.h"
#include "kernels/dummy_fill.h"
#include "kernels/embedding.h"
#include "tests/kernels/ceiling.h"
#ifdef CARAVAN_HAS_CUDA
#include "tests/kernels/cuda_ceiling.h"
#endif
#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

constexpr int64_t kVocab = 32000;
constexpr int64_t kHidden = 2048;

std::vector<int32_t> ScatteredIds(int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(i * 7919 % kVocab));
  return ids;
}

void BM_Embedding(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(1));
  const Tensor table(dtype, kVocab, kHidden);
  const std::vector<int32_t> ids = ScatteredIds(state.range(0));
  Tensor out(dtype, state.range(0), kHidden);
  const Stopwatch stopwatch;
  while (state.KeepRunning()) Embedding(ids, table.view(), 0, out.view(), DeviceStream::Cpu());
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state, 2.0 * static_cast<double>(out.rows() * kHidden * SizeOf(dtype)));
}

void BM_GatherRows(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(1));
  const Tensor x(dtype, kVocab, kHidden);
  const std::vector<int32_t> rows = ScatteredIds(state.range(0));
  Tensor out(dtype, state.range(0), kHidden);
  const Stopwatch stopwatch;
  while (state.KeepRunning()) GatherRows(x.view(), rows, out.view(), DeviceStream::Cpu());
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state, 2.0 * static_cast<double>(out.rows() * kHidden * SizeOf(dtype)));
}

BENCHMARK(BM_Embedding)
    ->ArgNames({"tokens", "dtype"})
    ->ArgsProduct({{1, 64, 2048}, {0, 2}})
    ->UseRealTime();
BENCHMARK(BM_GatherRows)
    ->ArgNames({"rows", "dtype"})
    ->ArgsProduct({{1, 64}, {0, 2}})
    ->UseRealTime();

#ifdef CARAVAN_HAS_CUDA

void BM_EmbeddingCuda(benchmark::State& state) {
  CudaStream* stream = BenchStream(state);
  if (stream == nullptr) return;
  const int64_t tokens = state.range(0);
  const DType dtype = DType::kFloat16;
  const DeviceMemory table = DeviceMemory::Allocate(kVocab * kHidden * 2);
  const DeviceMemory out = DeviceMemory::Allocate(tokens * kHidden * 2);
  const DeviceMemory ids = DeviceMemory::Allocate(tokens * 4);
  const std::vector<int32_t> host_ids = ScatteredIds(tokens);
  CopyToDevice(ids.data(), host_ids.data(), tokens * 4, *stream);
  const ConstMatrixView view =
      DenseMatrix(static_cast<const void*>(table.data()), dtype, kVocab, kHidden);
  while (state.KeepRunning()) {
    const double seconds = CudaSeconds(*stream, 100, [&](int) {
      Embedding({ids.as<int32_t>(), static_cast<size_t>(tokens)}, view, 0,
                DenseMatrix(out.data(), dtype, tokens, kHidden), DeviceStream::Cuda(*stream));
    });
    ReportCuda(state, *stream,
               {.seconds = seconds, .bytes = 4.0 * static_cast<double>(tokens * kHidden)});
  }
}
BENCHMARK(BM_EmbeddingCuda)
    ->ArgName("tokens")
    ->Arg(1)
    ->Arg(64)
    ->Arg(8192)
    ->UseManualTime()
    ->Iterations(1);

// How long dummy weights take: 64 Mi elements.
void BM_FillDummyCuda(benchmark::State& state) {
  CudaStream* stream = BenchStream(state);
  if (stream == nullptr) return;
  constexpr int64_t kElements = int64_t{64} << 20;
  const DeviceMemory memory = DeviceMemory::Allocate(kElements * 2);
  while (state.KeepRunning()) {
    const auto start = std::chrono::steady_clock::now();
    FillDummy({.key = 1}, DenseMatrix(memory.data(), DType::kFloat16, 1, kElements),
              DeviceStream::Cuda(*stream));
    stream->Synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    ReportCuda(state, *stream, {.seconds = elapsed.count(), .bytes = 2.0 * kElements});
  }
}
BENCHMARK(BM_FillDummyCuda)->UseManualTime()->Iterations(3);

#endif  // CARAVAN_HAS_CUDA

}  // namespace
}  // namespace caravan
