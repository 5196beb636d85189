#include <algorithm>

#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/silu.cuh"
#include "kernels/swiglu.h"

namespace caravan::cuda {
namespace {

constexpr int kThreads = 256;

// One thread per N neighbouring outputs of a row: the operator only moves memory, so each thread
// has one wide access in flight for gate, up and out.
template <typename In, typename Out, int N>
__global__ void SwiGluKernel(const In* gate_up, int64_t in_stride, Out* out, int64_t out_stride,
                             int64_t n) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const int64_t column = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (column >= n) return;
  const In* row = gate_up + blockIdx.y * in_stride;
  const auto gate = *reinterpret_cast<const Pack<In, N>*>(row + column);
  const auto up = *reinterpret_cast<const Pack<In, N>*>(row + n + column);
  Pack<Out, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    result.element[i] =
        FromFloat<Out>(SiluMultiply(ToFloat(gate.element[i]), ToFloat(up.element[i])));
  }
  *reinterpret_cast<Pack<Out, N>*>(out + blockIdx.y * out_stride + column) = result;
}

template <typename In, typename Out, int N>
void Launch(ConstMatrixView gate_up, MatrixView out, const CudaStream& stream) {
  const int64_t blocks = (out.cols + int64_t{kThreads} * N - 1) / (int64_t{kThreads} * N);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(out.rows));
  LaunchDependent(SwiGluKernel<In, Out, N>, {.grid = grid, .threads = kThreads}, stream,
                  static_cast<const In*>(gate_up.data), gate_up.row_stride,
                  static_cast<Out*>(out.data), out.row_stride, out.cols);
}

}  // namespace

void SwiGlu(ConstMatrixView gate_up, MatrixView out, CudaStream& stream) {
  WithType(gate_up.dtype, [&](auto in) {
    WithType(out.dtype, [&](auto to) {
      using In = typename decltype(in)::type;
      using Out = typename decltype(to)::type;
      constexpr int kWide = std::min(kVector<In>, kVector<Out>);
      const bool wide = IsAligned16(gate_up.data) && IsAligned16(out.data) &&
                        out.cols % kVector<In> == 0 && gate_up.row_stride % kVector<In> == 0 &&
                        out.row_stride % kVector<Out> == 0;
      if (wide) {
        Launch<In, Out, kWide>(gate_up, out, stream);
      } else {
        Launch<In, Out, 1>(gate_up, out, stream);
      }
    });
  });
}

}  // namespace caravan::cuda
