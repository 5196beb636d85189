#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/matmul.h"
#include "tests/kernels/ceiling.h"

namespace caravan {
namespace {

// Zeros do as well as numbers: no operation here is faster on them.
void BM_Matmul(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const int64_t k = state.range(1);
  const int64_t features = state.range(2);
  const DType dtype = static_cast<DType>(state.range(3));
  std::vector<char> x(static_cast<size_t>(rows * k * SizeOf(dtype)), 0);
  std::vector<char> weight(static_cast<size_t>(features * k * SizeOf(dtype)), 0);
  std::vector<char> out(static_cast<size_t>(rows * features * SizeOf(dtype)), 0);
  const WeightView view = {
      .dtype = dtype, .data = weight.data(), .out_features = features, .in_features = k};
  const Stopwatch stopwatch;
  while (state.KeepRunning()) {
    Matmul(DenseMatrix(x.data(), dtype, rows, k), view, {},
           DenseMatrix(out.data(), dtype, rows, features), DeviceStream::Cpu());
  }
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state, static_cast<double>(weight.size() + x.size() + out.size()));
  stopwatch.ReportFlops(state, 2.0 * static_cast<double>(rows * k * features));
}
// LLaMA 7B's gate and up projections in one; then a small model's.
BENCHMARK(BM_Matmul)
    ->ArgNames({"rows", "in", "out", "dtype"})
    ->ArgsProduct({{1, 4, 16, 64, 256}, {4096}, {22016}, {0, 1, 2}})
    ->ArgsProduct({{1, 8, 64}, {256}, {1024}, {0, 2}})
    ->UseRealTime();

}  // namespace
}  // namespace caravan
