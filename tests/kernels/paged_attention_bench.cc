#include <benchmark/benchmark.h>

#include "kernels/paged_attention.h"
#include "tests/kernels/bench_batch.h"
#include "tests/kernels/ceiling.h"
#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

constexpr int64_t kColumns = 32 * 128;  // 32 query heads over 8 KV heads, as in LLaMA 3 8B

// One token each of several sequences: bound by reading the cache.
void BM_DecodeAttention(benchmark::State& state) {
  const int32_t sequences = static_cast<int32_t>(state.range(0));
  const int32_t context = static_cast<int32_t>(state.range(1));
  const DType dtype = static_cast<DType>(state.range(2));
  const BenchBatch batch(sequences, 1, context, dtype);
  const Tensor q = Tensor::Random(dtype, sequences, kColumns, 1);
  Tensor out(dtype, sequences, kColumns);
  const Stopwatch stopwatch;
  while (state.KeepRunning()) {
    PagedAttention(q.view(), batch.kv, batch.batch, 0.088f, out.view(), DeviceStream::Cpu());
  }
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state, static_cast<double>(batch.memory.size()));
}
BENCHMARK(BM_DecodeAttention)
    ->ArgNames({"sequences", "context", "dtype"})
    ->ArgsProduct({{1, 16}, {256, 4096}, {0, 2}})
    ->UseRealTime();

// A prompt's chunk at the end of its context: bound by arithmetic. Two multiply-adds for each
// query, visible position and element of a head.
void BM_PrefillAttention(benchmark::State& state) {
  const int32_t queries = static_cast<int32_t>(state.range(0));
  const int32_t context = static_cast<int32_t>(state.range(1));
  const DType dtype = static_cast<DType>(state.range(2));
  const BenchBatch batch(1, queries, context, dtype);
  const Tensor q = Tensor::Random(dtype, queries, kColumns, 1);
  Tensor out(dtype, queries, kColumns);
  const Stopwatch stopwatch;
  while (state.KeepRunning()) {
    PagedAttention(q.view(), batch.kv, batch.batch, 0.088f, out.view(), DeviceStream::Cpu());
  }
  state.SetLabel(NameOf(dtype));
  const double visible = (context - (queries - 1) / 2.0) * queries;
  stopwatch.ReportFlops(state, 4.0 * visible * kColumns);
}
BENCHMARK(BM_PrefillAttention)
    ->ArgNames({"queries", "context", "dtype"})
    ->ArgsProduct({{64, 256}, {256, 2048}, {0, 2}})
    ->UseRealTime();

void BM_CopyKvBlocks(benchmark::State& state) {
  const BenchBatch batch(2, 1, 4096, DType::kBFloat16);
  std::vector<BlockCopy> copies;
  for (int32_t i = 0; i < state.range(0); ++i) copies.push_back({i, 256 + i});
  const Stopwatch stopwatch;
  while (state.KeepRunning()) CopyKvBlocks(batch.kv, copies, DeviceStream::Cpu());
  stopwatch.ReportBytes(state, 2.0 * static_cast<double>(batch.memory.size()) *
                                   static_cast<double>(copies.size()) /
                                   static_cast<double>(batch.kv.num_blocks));
}
BENCHMARK(BM_CopyKvBlocks)->ArgName("blocks")->Arg(1)->Arg(64)->UseRealTime();

}  // namespace
}  // namespace caravan
