#include "kernels/device/launch.cuh"
#include "kernels/device/matmul/paths.h"
#include "kernels/device/matmul/tile.cuh"

namespace caravan::cuda {
namespace {

constexpr int kMaxSplits = 8;  // a portable cluster

template <typename T, typename Shape>
void LaunchTile(const MatmulArgs& args, int splits, CudaStream& stream) {
  const auto kernel = TiledKernel<T, Shape>;
  CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          Shape::kSharedBytes));
  const bool wide =
      IsAligned16(args.out.data) && args.out.cols % 4 == 0 && args.out.row_stride % 4 == 0;
  const TiledArgs kernel_args = {.weight = args.weight.data,
                                 .x = args.x.data,
                                 .x_stride = args.x.row_stride,
                                 .bias = args.bias.data,
                                 .bias_dtype = args.bias.dtype,
                                 .out = args.out.data,
                                 .out_dtype = args.out.dtype,
                                 .out_stride = args.out.row_stride,
                                 .tokens = args.x.rows,
                                 .features = args.out.cols,
                                 .k = args.x.cols,
                                 .splits = splits,
                                 .wide_stores = wide};
  const dim3 grid(static_cast<unsigned>(splits),
                  static_cast<unsigned>((args.x.rows + Shape::kTokens - 1) / Shape::kTokens),
                  static_cast<unsigned>((args.out.cols + Shape::kFeatures - 1) / Shape::kFeatures));
  LaunchDependent(kernel,
                  {.grid = grid,
                   .threads = Shape::kThreads,
                   .shared_bytes = Shape::kSharedBytes,
                   .cluster = splits},
                  stream, kernel_args);
}

// From many tried, those that were fastest on an H100: small blocks, whose many stages keep the
// memory busy, for few tokens; large ones, whose warps use what they load often, for many. Each sum
// has the order of k in all of them.
// clang-format off
//                     features tokens  warp's  stages blocks
using Tokens8 = Tile<        32,     8,  16,  8,   12,     3>;
using Tokens16 = Tile<       32,    16,  16, 16,   10,     3>;
using Tokens32 = Tile<       32,    32,  16, 32,    8,     3>;
using Narrow64 = Tile<       32,    64,  16, 32,    5,     3>;
using Square64 = Tile<       64,    64,  32, 32,    4,     3>;
using Square128 = Tile<     128,   128,  64, 32,    3,     2>;
// clang-format on

template <typename Shape>
int64_t CountTiles(const MatmulArgs& args) {
  return (args.x.rows + Shape::kTokens - 1) / Shape::kTokens *
         ((args.out.cols + Shape::kFeatures - 1) / Shape::kFeatures);
}

// So many that there are at least three blocks for each two multiprocessors, as long as each has
// four stages.
template <typename Shape>
int ChooseSplits(const MatmulArgs& args, const CudaStream& stream) {
  if (stream.batch_invariant() || stream.device().compute_capability < 90) return 1;
  const int64_t tiles = CountTiles<Shape>(args);
  const int64_t depth = args.x.cols / kDepth;
  int splits = 1;
  while (splits < kMaxSplits && 2 * tiles * splits < 3 * stream.device().num_multiprocessors &&
         depth >= splits * 8) {
    splits *= 2;
  }
  return splits;
}

template <typename T, typename Shape>
void LaunchSplit(const MatmulArgs& args, int splits, CudaStream& stream) {
  LaunchTile<T, Shape>(args, splits == 0 ? ChooseSplits<Shape>(args, stream) : splits, stream);
}

template <typename T>
void Launch(const MatmulArgs& args, int splits, CudaStream& stream) {
  const int64_t tokens = args.x.rows;
  if (tokens <= 8) return LaunchSplit<T, Tokens8>(args, splits, stream);
  if (tokens <= 16) return LaunchSplit<T, Tokens16>(args, splits, stream);
  if (tokens <= 32) return LaunchSplit<T, Tokens32>(args, splits, stream);
  if (tokens > 256) return LaunchSplit<T, Square128>(args, splits, stream);
  if (CountTiles<Square64>(args) < 2 * stream.device().num_multiprocessors) {
    return LaunchSplit<T, Narrow64>(args, splits, stream);
  }
  LaunchSplit<T, Square64>(args, splits, stream);
}

}  // namespace

void MultiplyTiled(const MatmulArgs& args, int splits, CudaStream& stream) {
  CARAVAN_CHECK(splits == 0 || splits == 1 ||
                    ((splits == 2 || splits == 4 || splits == kMaxSplits) &&
                     stream.device().compute_capability >= 90),
                splits, " splits");
  if (args.x.dtype == DType::kFloat16) {
    Launch<__half>(args, splits, stream);
  } else {
    Launch<__nv_bfloat16>(args, splits, stream);
  }
}

}  // namespace caravan::cuda
