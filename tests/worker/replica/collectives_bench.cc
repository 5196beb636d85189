// Shared memory against Gloo over loopback: latency of an all-reduce in float32 and bytes reduced
// per second, ranks as processes. Arguments: kind (0 shared memory, 1 Gloo), ranks, KiB.
#include <benchmark/benchmark.h>

#include <vector>

#include "common/status.h"
#include "tests/worker/replica/group_fixture.h"

namespace caravan {
namespace {

void AllReduce(benchmark::State& state) {
  const auto kind = static_cast<CollectivesKind>(state.range(0));
  const int64_t elements = state.range(2) * 1024 / 4;
  std::vector<float> x(static_cast<size_t>(elements), 1.0f);
  const MatrixView view = DenseMatrix(x.data(), DType::kFloat32, 1, elements);
  RankProcesses ranks(kind, static_cast<int>(state.range(1)), [&](Collectives& group) {
    while (group.AllReduceSum(view, DeviceStream::Cpu()).ok()) {
    }
    return 0;
  });
  for (auto _ : state) {
    const absl::Status status = ranks.rank0().AllReduceSum(view, DeviceStream::Cpu());
    CARAVAN_CHECK(status.ok(), status.message());
  }
  ranks.rank0().Abort();
  state.SetBytesProcessed(state.iterations() * elements * 4);
  state.SetLabel(NameOf(kind));
}
BENCHMARK(AllReduce)
    ->ArgsProduct({{0, 1}, {2, 4}, {1, 4, 16, 64, 256, 1024, 8192}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace caravan
