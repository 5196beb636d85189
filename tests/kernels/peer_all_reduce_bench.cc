// Microseconds of one call inside a CUDA graph, with a rank on each GPU of this machine. The rate
// is the field's bus bandwidth (nccl-tests, doc/PERFORMANCE.md): what an all-reduce without latency
// would move over each link. tests/worker/replica/gpu_collectives_bench.cc compares with NCCL.
#ifdef CARAVAN_HAS_CUDA
#include <benchmark/benchmark.h>
#include <cuda_runtime.h>

#include <chrono>

#include "kernels/check.h"
#include "kernels/peer_all_reduce.h"
#include "tests/kernels/peer_fixture.h"

namespace caravan {
namespace {

constexpr int kCalls = 100;  // in one graph, so that launching it does not count

// Replays a graph of kCalls times call(rank) on all GPUs; `bytes` are those of one call.
void Replay(benchmark::State& state, PeerRanks& ranks, const std::function<void(int rank)>& call,
            double bytes) {
  std::vector<cudaGraphExec_t> graphs;
  ranks.ForEach([&](int r) {
    cudaStream_t stream = ranks.stream(r).handle();
    cudaGraph_t graph = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < kCalls; ++i) call(r);
    CARAVAN_CHECK_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    CARAVAN_CHECK_EQ(cudaGraphInstantiate(&graphs.emplace_back(), graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
  });
  const auto replay = [&] {
    ranks.Run([&](int r) { cudaGraphLaunch(graphs[r], ranks.stream(r).handle()); });
  };
  replay();
  double seconds = 0;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    replay();
    const double time =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    state.SetIterationTime(time);
    seconds += time;
  }
  for (cudaGraphExec_t graph : graphs) cudaGraphExecDestroy(graph);
  const double one = seconds / static_cast<double>(state.iterations()) / kCalls;
  const double peers = ranks.world_size() - 1;
  state.counters["us"] = one * 1e6;
  state.counters["bus_GB/s"] = bytes / one * 2 * peers / ranks.world_size() * 1e-9;
}

std::unique_ptr<PeerRanks> RanksOnAllGpus(benchmark::State& state) {
  std::string why;
  const size_t gpus = FindCudaDevices(&why).size();
  if (gpus < 2) {
    state.SkipWithError("needs two GPUs");
    return nullptr;
  }
  return std::make_unique<PeerRanks>(static_cast<int>(gpus), int64_t{16} << 20);
}

// Arguments: KiB of the sum, dtype.
void BM_PeerSum(benchmark::State& state) {
  const auto ranks = RanksOnAllGpus(state);
  if (ranks == nullptr) return;
  const auto dtype = static_cast<DType>(state.range(1));
  const int64_t elements = state.range(0) * 1024 / SizeOf(dtype);
  std::vector<MatrixView> x;
  for (int r = 0; r < ranks->world_size(); ++r) {
    x.push_back(ranks->Put(r, Tensor(dtype, 1, elements)));
  }
  Replay(
      state, *ranks,
      [&](int r) { cuda::PeerAllReduceSum(ranks->peers(r), x[r], ranks->stream(r)); },
      static_cast<double>(state.range(0) * 1024));
}
BENCHMARK(BM_PeerSum)
    ->ArgNames({"KiB", "dtype"})
    ->ArgsProduct({{8, 16, 64, 256, 1024, 8192, 65536}, {2}})
    ->UseManualTime()
    ->MinTime(0.05);

// Arguments: rows, hidden, dtype of the partial sums; all else is bfloat16.
void BM_PeerSumAddRmsNorm(benchmark::State& state) {
  const auto ranks = RanksOnAllGpus(state);
  if (ranks == nullptr) return;
  const auto dtype = static_cast<DType>(state.range(2));
  const int64_t rows = state.range(0);
  const int64_t hidden = state.range(1);
  std::vector<cuda::PeerReducedNorm> norms;
  for (int r = 0; r < ranks->world_size(); ++r) {
    cuda::PeerReducedNorm& norm = norms.emplace_back();
    norm.partial = ranks->Put(r, Tensor(dtype, rows, hidden));
    norm.residual = ranks->Put(r, Tensor(DType::kBFloat16, rows, hidden));
    norm.out = ranks->Put(r, Tensor(DType::kBFloat16, rows, hidden));
    norm.weight = {ranks->Put(r, Tensor(DType::kBFloat16, 1, hidden)).data, DType::kBFloat16,
                   hidden};
  }
  Replay(
      state, *ranks,
      [&](int r) { cuda::PeerAllReduceAddRmsNorm(ranks->peers(r), norms[r], ranks->stream(r)); },
      static_cast<double>(rows * hidden * SizeOf(dtype)));
}
BENCHMARK(BM_PeerSumAddRmsNorm)
    ->ArgNames({"rows", "hidden", "dtype"})
    ->ArgsProduct({{1, 8, 64, 512}, {4096, 8192}, {0, 2}})
    ->UseManualTime()
    ->MinTime(0.05);

// Arguments: rows, columns of a rank; float32 as logits are.
void BM_PeerGatherColumns(benchmark::State& state) {
  const auto ranks = RanksOnAllGpus(state);
  if (ranks == nullptr) return;
  const int64_t rows = state.range(0);
  const int64_t cols = state.range(1);
  std::vector<MatrixView> from;
  std::vector<MatrixView> to;
  for (int r = 0; r < ranks->world_size(); ++r) {
    from.push_back(ranks->Put(r, Tensor(DType::kFloat32, rows, cols)));
    to.push_back(ranks->Put(r, Tensor(DType::kFloat32, rows, cols * ranks->world_size())));
  }
  Replay(
      state, *ranks,
      [&](int r) { cuda::PeerGatherColumns(ranks->peers(r), from[r], to[r], ranks->stream(r)); },
      static_cast<double>(rows * cols * 4));
}
BENCHMARK(BM_PeerGatherColumns)
    ->ArgNames({"rows", "cols"})
    ->ArgsProduct({{1, 8, 64}, {16000, 64128}})
    ->UseManualTime()
    ->MinTime(0.05);

}  // namespace
}  // namespace caravan
#endif
