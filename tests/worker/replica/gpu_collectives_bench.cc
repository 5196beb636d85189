// Own collectives over peer memory against NCCL: microseconds of one call inside a CUDA graph, with
// a rank on each GPU of this machine. Kinds are 2 (peer) and 3 (NCCL), dtypes 0 (float32) and 2
// (bfloat16).
#ifdef CARAVAN_HAS_CUDA
#include <benchmark/benchmark.h>
#include <cuda_runtime.h>

#include <chrono>
#include <map>
#include <mutex>

#include "common/status.h"
#include "kernels/device/device_memory.h"
#include "kernels/rms_norm.h"
#include "tests/worker/replica/gpu_group_fixture.h"

namespace caravan {
namespace {

constexpr int kCalls = 50;  // in one graph
constexpr int kReplays = 5;

using Call = std::function<void(Collectives& ranks, void* memory, DeviceStream stream)>;

// One graph of calls, replayed on all GPUs at once: seconds of one call on the slowest rank. With
// `late`, rank 0 replays it once and waits so long for the others, which is not counted.
double SecondsOfACall(GpuGroup& group, int64_t memory_bytes, const Call& call,
                      absl::Duration late = absl::ZeroDuration()) {
  std::mutex mutex;
  double seconds = 0;
  group.Run([&](Collectives& ranks, CudaStream& stream) {
    const DeviceMemory memory = DeviceMemory::Allocate(memory_bytes);
    CARAVAN_CHECK(memory.data() != nullptr, memory_bytes);
    group.Meet();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replayed = nullptr;
    cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < kCalls; ++i) call(ranks, memory.data(), DeviceStream::Cuda(stream));
    CARAVAN_CHECK(cudaStreamEndCapture(stream.handle(), &graph) == cudaSuccess);
    CARAVAN_CHECK(cudaGraphInstantiate(&replayed, graph, 0) == cudaSuccess);
    cudaGraphLaunch(replayed, stream.handle());
    stream.Synchronize();
    group.Meet();
    const int replays = late > absl::ZeroDuration() ? 1 : kReplays;
    if (ranks.rank() > 0) absl::SleepFor(late);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < replays; ++i) cudaGraphLaunch(replayed, stream.handle());
    stream.Synchronize();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (ranks.rank() > 0 || late == absl::ZeroDuration()) {
      const std::lock_guard lock(mutex);
      seconds = std::max(seconds, time.count() / replays / kCalls);
    }
    cudaGraphExecDestroy(replayed);
    cudaGraphDestroy(graph);
    group.Meet();
  });
  return seconds;
}

void Time(benchmark::State& state, int64_t memory_bytes, const Call& call,
          absl::Duration late = absl::ZeroDuration()) {
  std::string why;
  if (!HasGpus(2, &why)) return state.SkipWithError(why.c_str());
  int world_size = 2;
  while (HasGpus(2 * world_size, &why) && world_size < 8) world_size *= 2;
  const auto kind = static_cast<CollectivesKind>(state.range(0));
  // One group a kind, since making one of NCCL takes longer than the timing.
  static std::map<CollectivesKind, std::unique_ptr<GpuGroup>> groups;
  std::unique_ptr<GpuGroup>& group = groups[kind];
  if (group == nullptr) group = std::make_unique<GpuGroup>(kind, world_size);
  for (auto _ : state) {
    const double seconds = SecondsOfACall(*group, memory_bytes, call, late);
    state.SetIterationTime(seconds);
    state.counters["us"] = seconds * 1e6;
  }
  state.SetLabel(absl::StrCat(NameOf(kind), " x", world_size));
}

void Sum(benchmark::State& state) {
  const int64_t bytes = state.range(1) * 1024;
  const auto dtype = static_cast<DType>(state.range(2));
  Time(state, bytes, [&](Collectives& ranks, void* memory, DeviceStream stream) {
    const MatrixView x = DenseMatrix(memory, dtype, 1, bytes / SizeOf(dtype));
    CARAVAN_CHECK(ranks.AllReduceSum(x, stream).ok());
  });
}
BENCHMARK(Sum)
    ->ArgNames({"kind", "KiB", "dtype"})
    ->ArgsProduct({{2, 3},
                   {8, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072},
                   {0, 2}})
    ->UseManualTime()
    ->Iterations(2)
    ->Unit(benchmark::kMicrosecond);

// `fused` 0: the sum, then the norm by itself. The sum's addends are float32 or bfloat16.
void SumAddRmsNorm(benchmark::State& state) {
  const int64_t rows = state.range(1);
  const int64_t hidden = state.range(2);
  const auto dtype = static_cast<DType>(state.range(3));
  const bool fused = state.range(4) != 0;
  const int64_t bytes = rows * hidden * 4;
  Time(state, 3 * bytes + hidden * 4, [&](Collectives& ranks, void* memory, DeviceStream stream) {
    auto* const base = static_cast<std::byte*>(memory);
    const ReducedNorm norm = {DenseMatrix(memory, dtype, rows, hidden),
                              {base + 3 * bytes, DType::kBFloat16, hidden},
                              1e-5F,
                              DenseMatrix(base + bytes, DType::kBFloat16, rows, hidden),
                              DenseMatrix(base + 2 * bytes, DType::kBFloat16, rows, hidden)};
    const absl::Status status = fused ? ranks.AllReduceAddRmsNorm(norm, stream)
                                      : ranks.Collectives::AllReduceAddRmsNorm(norm, stream);
    CARAVAN_CHECK(status.ok(), status.message());
  });
}
BENCHMARK(SumAddRmsNorm)
    ->ArgNames({"kind", "rows", "hidden", "dtype", "fused"})
    ->ArgsProduct({{2, 3}, {1, 8, 64, 512}, {4096, 8192}, {0, 2}, {0, 1}})
    ->UseManualTime()
    ->Iterations(2)
    ->Unit(benchmark::kMicrosecond);

// What a rank that comes late costs beyond its lateness: a wait must not slow down the calls after
// it.
void SumAddRmsNormAfterALateRank(benchmark::State& state) {
  const int64_t rows = state.range(1);
  constexpr int64_t kHidden = 4096;
  const int64_t bytes = rows * kHidden * 2;
  Time(
      state, 4 * bytes,
      [&](Collectives& ranks, void* memory, DeviceStream stream) {
        auto* const base = static_cast<std::byte*>(memory);
        const auto matrix = [&](int64_t at) {
          return DenseMatrix(base + at, DType::kBFloat16, rows, kHidden);
        };
        const ReducedNorm norm = {matrix(0),
                                  {base + 3 * bytes, DType::kBFloat16, kHidden},
                                  1e-5F,
                                  matrix(bytes),
                                  matrix(2 * bytes)};
        CARAVAN_CHECK(ranks.AllReduceAddRmsNorm(norm, stream).ok());
      },
      absl::Milliseconds(5));
}
BENCHMARK(SumAddRmsNormAfterALateRank)
    ->ArgNames({"kind", "rows"})
    ->ArgsProduct({{2, 3}, {1, 64, 128, 512}})
    ->UseManualTime()
    ->Iterations(3)
    ->Unit(benchmark::kMicrosecond);

void GatherColumns(benchmark::State& state) {
  const int64_t rows = state.range(1);
  const int64_t cols = state.range(2);
  Time(state, rows * cols * 4 * 9, [&](Collectives& ranks, void* memory, DeviceStream stream) {
    const int64_t bytes = rows * cols * 4;
    const MatrixView full = DenseMatrix(static_cast<std::byte*>(memory) + bytes, DType::kFloat32,
                                        rows, cols * ranks.world_size());
    const MatrixView shard = DenseMatrix(memory, DType::kFloat32, rows, cols);
    CARAVAN_CHECK(ranks.GatherColumns(shard, full, stream).ok());
  });
}
BENCHMARK(GatherColumns)
    ->ArgNames({"kind", "rows", "cols"})
    ->ArgsProduct({{2, 3}, {1, 16, 64}, {16000, 64128}})
    ->UseManualTime()
    ->Iterations(2)
    ->Unit(benchmark::kMicrosecond);

// What an epoch costs: a group made, connected, tried and ended, all ranks in one process.
void FormGroup(benchmark::State& state) {
  std::string why;
  if (!HasGpus(2, &why)) return state.SkipWithError(why.c_str());
  const auto kind = static_cast<CollectivesKind>(state.range(0));
  for (auto _ : state) GpuGroup(kind, 2);
  state.SetLabel(NameOf(kind));
}
BENCHMARK(FormGroup)->ArgName("kind")->Arg(2)->Arg(3)->UseRealTime()->Iterations(3)->Unit(
    benchmark::kMillisecond);

}  // namespace
}  // namespace caravan
#endif
