#include <algorithm>

#include "kernels/device/any_dtype.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/rms_norm.h"

namespace caravan::cuda {
namespace {

constexpr int kWidth = 8;  // elements of a vector
constexpr int kMaxThreads = 1024;
// Multiprocessors of sm_80, 90 and 100 hold 2,048 threads: two blocks of the most. Those of sm_86,
// 89 and 120 hold 1,536.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 800 && __CUDA_ARCH__ != 900 && __CUDA_ARCH__ != 1000
constexpr int kBlocksAtOnce = 1;
#else
constexpr int kBlocksAtOnce = 2;
#endif

struct NormArgs {
  ConstMatrixView x;    // or delta
  MatrixView residual;  // empty where nothing is added
  ConstVectorView weight;
  MatrixView out;
  float epsilon;
};

__device__ float RoundTo(DType dtype, float value) {
  if (dtype == DType::kFloat16) return ToFloat(FromFloat<__half>(value));
  if (dtype == DType::kBFloat16) return ToFloat(FromFloat<__nv_bfloat16>(value));
  return value;
}

// 1 / sqrt(mean + epsilon) from this thread's share of the squares.
__device__ float NormFactor(const NormArgs& args, float squares) {
  return 1.0f / sqrtf(BlockSum(squares) / static_cast<float>(args.out.cols) + args.epsilon);
}

// residual += values, rounded; the sum is returned in `values`.
template <int N>
__device__ void AddResidual(const MatrixView& residual, int64_t index, float (&values)[N]) {
  float old[N];
  LoadElements(residual.data, residual.dtype, index, old);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = RoundTo(residual.dtype, old[i] + values[i]);
  StoreElements(residual.data, residual.dtype, index, values);
}

// One block per row, kEach vectors a thread, which stay in registers between the sum of squares and
// the scaling: each element is read once. The weight comes before the predecessor has ended.
template <int kEach, bool kAdd>
__global__ void __launch_bounds__(kMaxThreads, kEach == 1 ? kBlocksAtOnce : 1)
    NormKernel(NormArgs args) {
  const int64_t row = blockIdx.x;
  const int vectors = static_cast<int>(args.out.cols / kWidth);
  ReleaseSuccessor();
  float scale[kEach][kWidth];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v < vectors) LoadElements(args.weight.data, args.weight.dtype, v * kWidth, scale[i]);
  }
  WaitForPredecessor();
  float values[kEach][kWidth];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    LoadElements(args.x.data, args.x.dtype, row * args.x.row_stride + v * kWidth, values[i]);
    if constexpr (kAdd) {
      AddResidual(args.residual, row * args.residual.row_stride + v * kWidth, values[i]);
    }
#pragma unroll
    for (int j = 0; j < kWidth; ++j) squares += values[i][j] * values[i][j];
  }
  const float factor = NormFactor(args, squares);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) values[i][j] = values[i][j] * factor * scale[i][j];
    StoreElements(args.out.data, args.out.dtype, row * args.out.row_stride + v * kWidth, values[i]);
  }
}

// One block per row, single elements, each read twice: for any size and alignment.
template <bool kAdd>
__global__ void __launch_bounds__(kMaxThreads) AnyNormKernel(NormArgs args) {
  const int64_t row = blockIdx.x;
  const int64_t cols = args.out.cols;
  ReleaseSuccessor();
  WaitForPredecessor();
  float squares = 0;
  for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
    float value[1] = {LoadElement(args.x.data, args.x.dtype, row * args.x.row_stride + c)};
    if constexpr (kAdd) AddResidual(args.residual, row * args.residual.row_stride + c, value);
    squares += value[0] * value[0];
  }
  const float factor = NormFactor(args, squares);
  for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
    const float value = kAdd ? LoadElement(args.residual.data, args.residual.dtype,
                                           row * args.residual.row_stride + c)
                             : LoadElement(args.x.data, args.x.dtype, row * args.x.row_stride + c);
    StoreElement(args.out.data, args.out.dtype, row * args.out.row_stride + c,
                 value * factor * LoadElement(args.weight.data, args.weight.dtype, c));
  }
}

bool IsAligned(const ConstMatrixView& m) {
  return IsAligned16(m.data) && m.row_stride % kWidth == 0;
}

template <bool kAdd>
void Launch(const NormArgs& args, const CudaStream& stream) {
  const int64_t vectors = args.out.cols / kWidth;
  const bool aligned = args.out.cols % kWidth == 0 && IsAligned(args.x) && IsAligned(args.out) &&
                       IsAligned16(args.weight.data) && (!kAdd || IsAligned(args.residual));
  const auto shape = [&](int64_t work) {
    const int64_t threads = std::min<int64_t>((work + 31) / 32 * 32, kMaxThreads);
    return LaunchShape{.grid = dim3(static_cast<unsigned>(args.out.rows)),
                       .threads = static_cast<int>(threads)};
  };
  if (aligned && vectors <= kMaxThreads) {
    LaunchDependent(NormKernel<1, kAdd>, shape(vectors), stream, args);
  } else if (aligned && vectors <= 2 * kMaxThreads) {
    LaunchDependent(NormKernel<2, kAdd>, shape((vectors + 1) / 2), stream, args);
  } else {
    LaunchDependent(AnyNormKernel<kAdd>, shape(args.out.cols), stream, args);
  }
}

}  // namespace

void RmsNorm(ConstMatrixView x, ConstVectorView weight, float epsilon, MatrixView out,
             CudaStream& stream) {
  Launch<false>({.x = x, .residual = {}, .weight = weight, .out = out, .epsilon = epsilon}, stream);
}

void AddRmsNorm(ConstMatrixView delta, ConstVectorView weight, float epsilon, MatrixView residual,
                MatrixView out, CudaStream& stream) {
  Launch<true>({.x = delta, .residual = residual, .weight = weight, .out = out, .epsilon = epsilon},
               stream);
}

}  // namespace caravan::cuda
