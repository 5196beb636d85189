#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/cuda_check.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/matmul/paths.h"
#include "kernels/dummy_fill.h"
#include "tests/kernels/cuda_ceiling.h"

namespace caravan {
namespace {

constexpr int kThreads = 512;
constexpr int kReplays = 7;

// Every thread strides over the whole memory with eight loads under way: the fewest instructions a
// byte, so that only the memory limits it.
__global__ void __launch_bounds__(kThreads)
    ReadKernel(const uint4* data, int64_t n, uint32_t* out) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  uint32_t sum = 0;
#pragma unroll 8
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += stride) {
    const uint4 v = __ldcs(data + i);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x9E3779B9u) *out = sum;  // so that the loads are not optimized away
}

double MeasureReads(CudaStream& stream) {
  constexpr int64_t kBytes = int64_t{2} << 30;
  const DeviceMemory memory = DeviceMemory::Allocate(kBytes);
  const DeviceMemory sum = DeviceMemory::Allocate(4);
  CARAVAN_CHECK(memory.data() != nullptr && sum.data() != nullptr, kBytes,
                " bytes for the ceiling");
  const double seconds = CudaSeconds(stream, 4, [&](int) {
    ReadKernel<<<4 * stream.device().num_multiprocessors, kThreads, 0, stream.handle()>>>(
        memory.as<uint4>(), kBytes / 16, sum.as<uint32_t>());
    CARAVAN_CUDA_CHECK(cudaGetLastError());
  });
  return static_cast<double>(kBytes) / seconds;
}

double MeasureProduct(CudaStream& stream, DType dtype) {
  constexpr int64_t kSize = 8192;
  DeviceMemory memory[3];
  for (int i = 0; i < 3; ++i) {
    memory[i] = DeviceMemory::Allocate(kSize * kSize * SizeOf(dtype));
    CARAVAN_CHECK(memory[i].data() != nullptr, "no memory for the ceiling");
    // Random, since zeros go faster.
    FillDummy({.key = static_cast<uint64_t>(i), .stride = kSize},
              DenseMatrix(memory[i].data(), dtype, kSize, kSize), DeviceStream::Cuda(stream));
  }
  const cuda::MatmulArgs args = {
      DenseMatrix(static_cast<const void*>(memory[0].data()), dtype, kSize, kSize),
      {.dtype = dtype, .data = memory[1].data(), .out_features = kSize, .in_features = kSize},
      {},
      DenseMatrix(memory[2].data(), dtype, kSize, kSize)};
  const double seconds = CudaSeconds(stream, 4, [&](int) { cuda::MultiplyCublas(args, stream); });
  return 2.0 * kSize * kSize * kSize / seconds;
}

}  // namespace

CudaStream* BenchStream(benchmark::State& state, bool batch_invariant) {
  // Never destroyed: CUDA may be gone when static objects are.
  static CudaStream* streams[2] = {};
  CudaStream*& stream = streams[batch_invariant ? 1 : 0];
  std::string problem;
  if (stream == nullptr) {
    stream = CudaStream::Create({.batch_invariant = batch_invariant}, &problem).release();
  }
  if (stream == nullptr) state.SkipWithError(problem.c_str());
  return stream;
}

double CudaReadBytesPerSecond(CudaStream& stream) {
  static const double measured = MeasureReads(stream);
  return measured;
}

double CudaFlopsPerSecond(CudaStream& stream, DType dtype) {
  static std::map<DType, double> measured;
  if (!measured.contains(dtype)) measured[dtype] = MeasureProduct(stream, dtype);
  return measured[dtype];
}

double CudaSeconds(CudaStream& stream, int bodies, const std::function<void(int)>& body) {
  body(0);  // loads the kernels, which a capture could not
  stream.Synchronize();
  CARAVAN_CUDA_CHECK(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < bodies; ++i) body(i);
  cudaGraph_t graph = nullptr;
  CARAVAN_CUDA_CHECK(cudaStreamEndCapture(stream.handle(), &graph));
  cudaGraphExec_t executable = nullptr;
  CARAVAN_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  CARAVAN_CUDA_CHECK(cudaEventCreate(&begin));
  CARAVAN_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<double> seconds;
  for (int replay = -2; replay < kReplays; ++replay) {
    CARAVAN_CUDA_CHECK(cudaEventRecord(begin, stream.handle()));
    CARAVAN_CUDA_CHECK(cudaGraphLaunch(executable, stream.handle()));
    CARAVAN_CUDA_CHECK(cudaEventRecord(end, stream.handle()));
    stream.Synchronize();
    float ms = 0;
    CARAVAN_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (replay >= 0) seconds.push_back(ms * 1e-3 / bodies);  // the first ones warm up
  }
  CARAVAN_CUDA_CHECK(cudaEventDestroy(begin));
  CARAVAN_CUDA_CHECK(cudaEventDestroy(end));
  CARAVAN_CUDA_CHECK(cudaGraphExecDestroy(executable));
  CARAVAN_CUDA_CHECK(cudaGraphDestroy(graph));
  std::nth_element(seconds.begin(), seconds.begin() + kReplays / 2, seconds.end());
  return seconds[kReplays / 2];
}

void ReportCuda(benchmark::State& state, CudaStream& stream, const CudaWork& work) {
  state.SetIterationTime(work.seconds);
  state.counters["us"] = work.seconds * 1e6;
  if (work.bytes > 0) {
    const double rate = work.bytes / work.seconds;
    state.counters["GB/s"] = rate * 1e-9;
    state.counters["read_%"] = 100 * rate / CudaReadBytesPerSecond(stream);
  }
  if (work.flops > 0) {
    const double rate = work.flops / work.seconds;
    state.counters["TFLOP/s"] = rate * 1e-12;
    state.counters["cublas_%"] = 100 * rate / CudaFlopsPerSecond(stream, work.dtype);
  }
}

}  // namespace caravan
