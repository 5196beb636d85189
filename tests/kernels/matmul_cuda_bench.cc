// Every path of the product on the GPU, on the matrices of LLaMA models: what kernels/matmul.cu
// chooses by.
#ifdef CARAVAN_HAS_CUDA

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/matmul/paths.h"
#include "kernels/dummy_fill.h"
#include "tests/kernels/cuda_ceiling.h"

namespace caravan {
namespace {

using cuda::MatmulArgs;

constexpr int64_t kWeightBytes = int64_t{1536} << 20;  // far beyond the L2 cache
constexpr int64_t kOtherElements = int64_t{8192} * 28672;

enum Way {
  kVector,
  kTiled,
  kTiled1,
  kTiled2,
  kTiled4,
  kTiled8,
  kStreamed,
  kCublas,
  kInvariant,
  kMatmul
};
constexpr const char* kWays[] = {"vector",  "tiled",    "tiled/1", "tiled/2",   "tiled/4",
                                 "tiled/8", "streamed", "cublas",  "invariant", "matmul"};

// Random weights and inputs for all benchmarks: zeros would go faster.
struct Memory {
  DeviceMemory weights = DeviceMemory::Allocate(kWeightBytes);
  DeviceMemory x = DeviceMemory::Allocate(kOtherElements * 2);
  DeviceMemory out = DeviceMemory::Allocate(kOtherElements * 2);
};

const Memory& RandomMemory(CudaStream& stream) {
  static const Memory* memory = [&] {
    auto* m = new Memory;
    CARAVAN_CHECK(
        m->weights.data() != nullptr && m->x.data() != nullptr && m->out.data() != nullptr,
        "too little memory on the GPU");
    const DeviceStream on_stream = DeviceStream::Cuda(stream);
    FillDummy({.key = 1}, DenseMatrix(m->weights.data(), DType::kFloat16, 1, kWeightBytes / 2),
              on_stream);
    FillDummy({.key = 2}, DenseMatrix(m->x.data(), DType::kFloat16, 1, kOtherElements), on_stream);
    stream.Synchronize();
    return m;
  }();
  return *memory;
}

void Multiply(Way way, const MatmulArgs& args, CudaStream& stream) {
  switch (way) {
    case kVector:
      return MultiplyVector(args, stream);
    case kTiled:
    case kInvariant:
      return MultiplyTiled(args, 0, stream);
    case kTiled1:
    case kTiled2:
    case kTiled4:
    case kTiled8:
      return MultiplyTiled(args, 1 << (way - kTiled1), stream);
    case kStreamed:
      return MultiplyStreamed(args, PlanStreamed(args, stream), stream);
    case kCublas:
      return MultiplyCublas(args, stream);
    case kMatmul:
      return Matmul(args.x, args.weight, args.bias, args.out, DeviceStream::Cuda(stream));
  }
}

void BM_MatmulCuda(benchmark::State& state) {
  const int64_t features = state.range(0);
  const int64_t k = state.range(1);
  const int64_t tokens = state.range(2);
  const Way way = static_cast<Way>(state.range(3));
  CudaStream* stream = BenchStream(state, way == kInvariant);
  if (stream == nullptr) return;
  const Memory& memory = RandomMemory(*stream);
  const DType dtype = DType::kFloat16;
  const int64_t bytes = features * k * SizeOf(dtype);
  const int64_t copies = std::max<int64_t>(1, kWeightBytes / bytes);
  const auto body = [&](int i) {
    Multiply(way,
             {DenseMatrix(static_cast<const void*>(memory.x.data()), dtype, tokens, k),
              {.dtype = dtype,
               .data = memory.weights.as<char>() + i % copies * bytes,
               .out_features = features,
               .in_features = k},
              {},
              DenseMatrix(memory.out.data(), dtype, tokens, features)},
             *stream);
  };
  const double flops = 2.0 * static_cast<double>(features * k * tokens);
  // About 2 ms.
  const double estimate = static_cast<double>(bytes) / 3e12 + flops / 5e14;
  const int bodies = std::clamp(static_cast<int>(2e-3 / estimate), 4, 256);
  while (state.KeepRunning()) {
    const double seconds = CudaSeconds(*stream, bodies, body);
    ReportCuda(state, *stream,
               {.seconds = seconds,
                .bytes = static_cast<double>(bytes + (features + k) * tokens * SizeOf(dtype)),
                .flops = flops,
                .dtype = dtype});
  }
  state.SetLabel(kWays[way]);
}

// qkv, o, gate and up, down and lm head of LLaMA 7B, then those of LLaMA 3 8B that differ.
const std::vector<std::pair<int64_t, int64_t>>& Shapes() {
  static const auto* shapes = new std::vector<std::pair<int64_t, int64_t>>{
      {12288, 4096}, {4096, 4096}, {22016, 4096}, {4096, 11008},
      {32000, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}};
  return *shapes;
}

void EveryWay(benchmark::internal::Benchmark* bench) {
  for (const auto& [features, k] : Shapes()) {
    for (const int64_t tokens : {1, 2, 3, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 1024, 4096}) {
      for (int64_t way = kVector; way <= kMatmul; ++way) {
        if (way == kVector && tokens > cuda::kMaxVectorTokens) continue;
        if (way >= kTiled && way <= kTiled8 && tokens > 32) continue;
        if (way == kStreamed && tokens > cuda::kMaxStreamedTokens) continue;
        bench->Args({features, k, tokens, way});
      }
    }
  }
}
BENCHMARK(BM_MatmulCuda)
    ->ArgNames({"out", "in", "tokens", "way"})
    ->Apply(EveryWay)
    ->UseManualTime()
    ->Iterations(1);

}  // namespace
}  // namespace caravan

#endif  // CARAVAN_HAS_CUDA
