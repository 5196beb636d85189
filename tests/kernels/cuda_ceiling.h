// What the GPU can do at most, measured in the same process as the operators, and the time that
// operators take there: for benchmarks, in builds with CUDA.
//   CudaStream* stream = BenchStream(state);  // null, and the benchmark is skipped: no GPU
//   const double seconds = CudaSeconds(*stream, 16, [&](int i) { Op(…, inputs[i], …); });
//   ReportCuda(state, *stream, {.seconds = seconds, .bytes = …});
//   BENCHMARK(…)->UseManualTime()->Iterations(1)
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>

#include "kernels/device/cuda_stream.h"
#include "kernels/view.h"

namespace caravan {

// One stream for all benchmarks of the process, batch invariant or not; null where there is no GPU.
CudaStream* BenchStream(benchmark::State& state, bool batch_invariant = false);

// Streaming reads of device memory, bytes a second: a reduction over 2 GiB. The ceiling for what
// reads its inputs once.
double CudaReadBytesPerSecond(CudaStream& stream);
// cuBLASLt's product of two matrices of 8192 x 8192, floating-point operations a second. The
// ceiling for large products.
double CudaFlopsPerSecond(CudaStream& stream, DType dtype);

// Seconds on the device that one of body(0) … body(bodies - 1) takes, which enqueue work on the
// stream: all of them in one graph, the median of several replays. With inputs of their own that
// exceed the L2 cache together, each comes from memory, as in a model.
double CudaSeconds(CudaStream& stream, int bodies, const std::function<void(int)>& body);

struct CudaWork {
  double seconds = 0;
  double bytes = 0;  // read and written; 0: not reported
  double flops = 0;  // 0: not reported
  DType dtype = DType::kFloat16;
};
// Counters us, GB/s with read_%, TFLOP/s with cublas_%, and the iteration's time.
void ReportCuda(benchmark::State& state, CudaStream& stream, const CudaWork& work);

}  // namespace caravan
