#include <benchmark/benchmark.h>

#include "kernels/device/device_memory.h"
#include "kernels/dummy_fill.h"
#include "kernels/rms_norm.h"
#include "tests/kernels/ceiling.h"
#ifdef CARAVAN_HAS_CUDA
#include "tests/kernels/cuda_ceiling.h"
#endif
#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

void BM_RmsNorm(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(2));
  const Tensor x = Tensor::Random(dtype, state.range(0), state.range(1), 1);
  const Tensor weight = Tensor::Random(dtype, 1, state.range(1), 2);
  Tensor out(dtype, state.range(0), state.range(1));
  const Stopwatch stopwatch;
  while (state.KeepRunning()) {
    RmsNorm(x.view(), weight.vector(), 1e-5f, out.view(), DeviceStream::Cpu());
  }
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state, 2.0 * static_cast<double>(x.rows() * x.cols() * SizeOf(dtype)));
}

void BM_AddRmsNorm(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(2));
  // The residual takes a delta of zeros, so that it stays finite however often it is added.
  Tensor residual = Tensor::Random(dtype, state.range(0), state.range(1), 1);
  Tensor delta(dtype, state.range(0), state.range(1));
  std::memset(delta.view().data, 0,
              static_cast<size_t>(delta.rows() * delta.cols() * SizeOf(dtype)));
  const Tensor weight = Tensor::Random(dtype, 1, state.range(1), 2);
  Tensor out(dtype, state.range(0), state.range(1));
  const Stopwatch stopwatch;
  while (state.KeepRunning()) {
    AddRmsNorm(delta.view(), weight.vector(), 1e-5f, residual.view(), out.view(),
               DeviceStream::Cpu());
  }
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state,
                        4.0 * static_cast<double>(delta.rows() * delta.cols() * SizeOf(dtype)));
}

// Hidden sizes of a small model and of LLaMA 7B; one token, a batch, a prompt's chunk.
BENCHMARK(BM_RmsNorm)
    ->ArgNames({"rows", "hidden", "dtype"})
    ->ArgsProduct({{1, 16, 512}, {256, 4096}, {0, 1, 2}})
    ->UseRealTime();
BENCHMARK(BM_AddRmsNorm)
    ->ArgNames({"rows", "hidden", "dtype"})
    ->ArgsProduct({{1, 16, 512}, {4096}, {0, 2}})
    ->UseRealTime();

#ifdef CARAVAN_HAS_CUDA

// The norm between two layers on the GPU: residual and delta of a model lie in the L2 cache at
// small batches, so the share of memory's ceiling may be above 100 %.
void BM_AddRmsNormCuda(benchmark::State& state) {
  CudaStream* stream = BenchStream(state);
  if (stream == nullptr) return;
  const int64_t rows = state.range(0);
  const int64_t hidden = state.range(1);
  const DType dtype = DType::kFloat16;
  const int64_t bytes = rows * hidden * SizeOf(dtype);
  const DeviceMemory memory = DeviceMemory::Allocate(3 * bytes + hidden * 2);
  auto* data = memory.as<char>();
  FillDummy({.key = 1}, DenseMatrix(data, dtype, 1, memory.bytes() / 2),
            DeviceStream::Cuda(*stream));
  while (state.KeepRunning()) {
    const double seconds = CudaSeconds(*stream, 100, [&](int) {
      AddRmsNorm(DenseMatrix(static_cast<const void*>(data), dtype, rows, hidden),
                 {data + 3 * bytes, dtype, hidden}, 1e-5f,
                 DenseMatrix(data + bytes, dtype, rows, hidden),
                 DenseMatrix(data + 2 * bytes, dtype, rows, hidden), DeviceStream::Cuda(*stream));
    });
    ReportCuda(state, *stream, {.seconds = seconds, .bytes = 4.0 * static_cast<double>(bytes)});
  }
}
BENCHMARK(BM_AddRmsNormCuda)
    ->ArgNames({"rows", "hidden"})
    ->ArgsProduct({{1, 8, 64, 512, 8192}, {4096, 8192}})
    ->UseManualTime()
    ->Iterations(1);

#endif  // CARAVAN_HAS_CUDA

}  // namespace
}  // namespace caravan
