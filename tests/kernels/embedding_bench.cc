#include <benchmark/benchmark.h>

#include "kernels/embedding.h"
#include "tests/kernels/ceiling.h"
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

}  // namespace
}  // namespace caravan
