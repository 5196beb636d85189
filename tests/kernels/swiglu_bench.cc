#include <benchmark/benchmark.h>

#include "kernels/swiglu.h"
#include "tests/kernels/ceiling.h"
#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

void BM_SwiGlu(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const int64_t n = state.range(1);
  const DType dtype = static_cast<DType>(state.range(2));
  const Tensor gate_up = Tensor::Random(dtype, tokens, 2 * n, 1);
  Tensor out(dtype, tokens, n);
  const Stopwatch stopwatch;
  while (state.KeepRunning()) SwiGlu(gate_up.view(), out.view(), DeviceStream::Cpu());
  state.SetLabel(NameOf(dtype));
  stopwatch.ReportBytes(state, 3.0 * static_cast<double>(tokens * n * SizeOf(dtype)));
}
BENCHMARK(BM_SwiGlu)
    ->ArgNames({"tokens", "intermediate", "dtype"})
    ->ArgsProduct({{1, 16, 256}, {11008}, {0, 1, 2}})
    ->UseRealTime();

}  // namespace
}  // namespace caravan
