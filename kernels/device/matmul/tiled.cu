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
// has the order of k in all of them, but for splits.
// clang-format off
//                        features tokens  warp's  depth stages blocks
using Tokens8 = Tile<           64,     8,  16,  8,  128,    4,     3>;
using Tokens8Whole = Tile<      32,     8,  16,  8,  128,    6,     3>;
using Tokens16 = Tile<          64,    16,  16, 16,   64,    7,     3>;
using Tokens16Whole = Tile<     32,    16,  16, 16,   64,   10,     3>;
using Tokens32 = Tile<          32,    32,  16, 32,   64,    8,     3>;
using Tokens64 = Tile<          32,    64,  16, 32,   64,    5,     3>;
using Square64 = Tile<          64,    64,  32, 32,   64,    4,     3>;
using Square128 = Tile<        128,   128,  64, 32,   64,    3,     2>;
// clang-format on

template <typename Shape>
int64_t CountTiles(const MatmulArgs& args) {
  return (args.x.rows + Shape::kTokens - 1) / Shape::kTokens *
         ((args.out.cols + Shape::kFeatures - 1) / Shape::kFeatures);
}

// How many blocks of a cluster share the inner dimension of a tile, also found by trying: `least`,
// more where there would be fewer blocks than `quarters` / 4 for each multiprocessor, and twice as
// many where more tiles than three for each multiprocessor would leave the last of them few.
template <typename Shape>
int ChooseSplits(const MatmulArgs& args, int least, int quarters, const CudaStream& stream) {
  if (stream.batch_invariant() || stream.device().compute_capability < 90) return 1;
  const int64_t multiprocessors = stream.device().num_multiprocessors;
  const int64_t tiles = CountTiles<Shape>(args);
  const int64_t depth = args.x.cols / Shape::kDepth;
  int splits = least;
  while (splits < kMaxSplits && 4 * tiles * splits < quarters * multiprocessors) splits *= 2;
  if (least > 1 && tiles > 3 * multiprocessors) splits *= 2;
  while (splits > 1 && depth < 4 * splits) splits /= 2;
  return splits;
}

template <typename T>
void LaunchFew(const MatmulArgs& args, int splits, CudaStream& stream) {
  if (args.x.rows <= 8) {
    if (splits == 0) splits = ChooseSplits<Tokens8>(args, 2, 3, stream);
    if (splits == 1) return LaunchTile<T, Tokens8Whole>(args, 1, stream);
    return LaunchTile<T, Tokens8>(args, splits, stream);
  }
  if (args.x.rows <= 16) {
    if (splits == 0) splits = ChooseSplits<Tokens16>(args, 2, 5, stream);
    if (splits == 1) return LaunchTile<T, Tokens16Whole>(args, 1, stream);
    return LaunchTile<T, Tokens16>(args, splits, stream);
  }
  if (splits == 0) splits = ChooseSplits<Tokens32>(args, 1, 6, stream);
  LaunchTile<T, Tokens32>(args, splits, stream);
}

template <typename T>
void LaunchMany(const MatmulArgs& args, CudaStream& stream) {
  const int64_t multiprocessors = stream.device().num_multiprocessors;
  if (args.x.rows > 256 && 2 * CountTiles<Square128>(args) >= 3 * multiprocessors) {
    return LaunchTile<T, Square128>(args, 1, stream);
  }
  if (4 * CountTiles<Square64>(args) < 7 * multiprocessors) {
    return LaunchTile<T, Tokens64>(args, 1, stream);
  }
  LaunchTile<T, Square64>(args, 1, stream);
}

template <typename T>
void Launch(const MatmulArgs& args, int splits, CudaStream& stream) {
  if (args.x.rows <= 32) return LaunchFew<T>(args, splits, stream);
  LaunchMany<T>(args, stream);
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
