#include <benchmark/benchmark.h>

#include "kernels/rope_append_kv.h"
#include "tests/kernels/bench_batch.h"
#include "tests/kernels/ceiling.h"
#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

// 32 query and 8 KV heads of 128: queries and keys are read, values too; queries, cache written.
void BM_RopeAppendKv(benchmark::State& state) {
  const int32_t tokens = static_cast<int32_t>(state.range(0));
  const DType dtype = static_cast<DType>(state.range(1));
  const BenchBatch batch(1, tokens, tokens, dtype);
  Tensor qkv = Tensor::Random(dtype, tokens, 48 * 128, 1);
  Tensor cos_sin(DType::kFloat32, tokens, 128);
  std::vector<int32_t> rows;
  for (int32_t t = 0; t < tokens; ++t) {
    rows.push_back(t);
    // No rotation, so that the queries stay what they are however often they are rotated.
    for (int64_t i = 0; i < 128; ++i) cos_sin.Set(t, i, i < 64 ? 1 : 0);
  }
  const Stopwatch stopwatch;
  while (state.KeepRunning()) {
    RopeAppendKv(qkv.view(), cos_sin.view(), rows, batch.batch, batch.kv, DeviceStream::Cpu());
  }
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state, 2.0 * static_cast<double>(tokens * qkv.cols() * SizeOf(dtype)));
}
BENCHMARK(BM_RopeAppendKv)
    ->ArgNames({"tokens", "dtype"})
    ->ArgsProduct({{1, 16, 512}, {0, 1, 2}})
    ->UseRealTime();

}  // namespace
}  // namespace caravan
