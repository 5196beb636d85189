#include <algorithm>

#include "kernels/device/any_dtype.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/matmul/paths.h"

namespace caravan::cuda {
namespace {

constexpr int kTile = 64;  // tokens and features of a block
constexpr int kDepth = 16;
constexpr int kSide = 16;  // threads along each side of a tile
constexpr int kEach = kTile / kSide;
constexpr int kThreads = kSide * kSide;

struct GenericArgs {
  ConstMatrixView x;
  ConstMatrixView weight;
  ConstVectorView bias;
  MatrixView out;
};

// Rows [first, first + kTile) and columns [column, column + kDepth) of m in float32, transposed;
// zeros beyond its borders.
__device__ void LoadTile(const ConstMatrixView& m, int64_t first, int64_t column,
                         float (*tile)[kTile + 1]) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
    const int r = i / kDepth;
    const int c = i % kDepth;
    const bool inside = first + r < m.rows && column + c < m.cols;
    tile[c][r] =
        inside ? LoadElement(m.data, m.dtype, (first + r) * m.row_stride + column + c) : 0.0f;
  }
}

// One block per tile of 64 x 64 outputs, 16 of them a thread, through shared memory in float32: the
// path that takes everything needs no more than to reuse what it loads. Each output is one sum in
// the order of k, whatever the shape.
__global__ void __launch_bounds__(kThreads) GenericKernel(GenericArgs args) {
  __shared__ float x[kDepth][kTile + 1];
  __shared__ float w[kDepth][kTile + 1];
  const int64_t token = int64_t{blockIdx.y} * kTile;
  const int64_t feature = int64_t{blockIdx.x} * kTile;
  const int row = threadIdx.x / kSide;
  const int column = threadIdx.x % kSide;
  float sums[kEach][kEach] = {};
  ReleaseSuccessor();
  WaitForPredecessor();
  for (int64_t k = 0; k < args.x.cols; k += kDepth) {
    LoadTile(args.x, token, k, x);
    LoadTile(args.weight, feature, k, w);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          sums[i][j] = fmaf(x[d][row + i * kSide], w[d][column + j * kSide], sums[i][j]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t t = token + row + i * kSide;
      const int64_t n = feature + column + j * kSide;
      if (t >= args.out.rows || n >= args.out.cols) continue;
      const float bias =
          args.bias.data == nullptr ? 0.0f : LoadElement(args.bias.data, args.bias.dtype, n);
      StoreElement(args.out.data, args.out.dtype, t * args.out.row_stride + n, sums[i][j] + bias);
    }
  }
}

}  // namespace

void MultiplyGeneric(const MatmulArgs& args, CudaStream& stream) {
  constexpr int64_t kMaxTokens = int64_t{65535} * kTile;  // of a grid's y
  for (int64_t t = 0; t < args.out.rows; t += kMaxTokens) {
    const int64_t tokens = std::min(kMaxTokens, args.out.rows - t);
    const GenericArgs part = {{args.x.row(t), args.x.dtype, tokens, args.x.cols, args.x.row_stride},
                              DenseMatrix(args.weight.data, args.weight.dtype,
                                          args.weight.out_features, args.weight.in_features),
                              args.bias,
                              args.out.Rows(t, tokens)};
    const dim3 grid(static_cast<unsigned>((args.out.cols + kTile - 1) / kTile),
                    static_cast<unsigned>((tokens + kTile - 1) / kTile));
    LaunchDependent(GenericKernel, {.grid = grid, .threads = kThreads}, stream, part);
  }
}

}  // namespace caravan::cuda
