#include <benchmark/benchmark.h>

#include "kernels/rms_norm.h"
#include "tests/kernels/ceiling.h"
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

}  // namespace
}  // namespace caravan
