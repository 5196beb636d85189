#include "kernels/device/elements.cuh"
#include "kernels/device/matmul/paths.h"
#include "kernels/matmul.h"

namespace caravan::cuda {
namespace {

// Up to so many tokens, measured on an H100 with fp16 (tests/kernels/matmul_cuda_bench.cc;
// microseconds of the path / of cuBLASLt, [features x k]):
//   tokens      4096x4096      4096x11008     6144x4096      12288x4096     22016x4096
//   8 tiled     14.0 / 13.6    35.8 / 35.0    18.5 / 20.4    34.8 / 36.5    62.4 / 68.6
//   16          14.3 / 15.6    36.1 / 35.8    19.1 / 20.8    35.7 / 37.1    64.3 / 65.6
//   32          15.2 / 14.0    37.1 / 36.1    20.1 / 21.2    36.9 / 39.7    66.7 / 66.9
//   64          16.1 / 14.3    38.5 / 37.3    21.8 / 20.2    39.2 / 37.7    71.2 / 70.9
// In a decoder layer tiles gain more: they start before the kernel before them has ended (8 tokens:
// 157 us a layer of LLaMA 7B against 167).
constexpr int64_t kTiledTokens = 16;
constexpr int64_t kTiledTokensOfWide = 32;  // where there are more tiles than multiprocessors

bool IsHalf(DType dtype) { return dtype != DType::kFloat32; }

}  // namespace

const char* NameOf(MatmulPath path) {
  switch (path) {
    case MatmulPath::kGeneric:
      return "generic";
    case MatmulPath::kVector:
      return "vector";
    case MatmulPath::kTiled:
      return "tiled";
    case MatmulPath::kCublas:
      return "cublas";
  }
  return "?";
}

bool InputsAreAligned(const MatmulArgs& args) {
  const int64_t vector = 16 / SizeOf(args.x.dtype);
  return args.x.dtype == args.weight.dtype && args.x.cols > 0 && args.x.cols % vector == 0 &&
         args.x.row_stride % vector == 0 && IsAligned16(args.x.data) &&
         IsAligned16(args.weight.data);
}

bool CanMultiply(MatmulPath path, const MatmulArgs& args) {
  switch (path) {
    case MatmulPath::kGeneric:
      return true;
    case MatmulPath::kVector:
      return InputsAreAligned(args) && args.x.rows <= kMaxVectorTokens;
    case MatmulPath::kTiled:
      return InputsAreAligned(args) && IsHalf(args.x.dtype);
    case MatmulPath::kCublas:
      return InputsAreAligned(args) && IsAligned16(args.out.data) &&
             (args.out.dtype == args.x.dtype || args.out.dtype == DType::kFloat32) &&
             (args.bias.empty() || args.bias.dtype == args.out.dtype);
  }
  return false;
}

MatmulPath ChoosePath(const MatmulArgs& args, const CudaStream& stream) {
  const auto can = [&](MatmulPath path) { return CanMultiply(path, args); };
  if (!stream.batch_invariant()) {
    if (can(MatmulPath::kVector)) return MatmulPath::kVector;
    const bool wide = args.out.cols > 32 * stream.device().num_multiprocessors;
    const int64_t few = wide ? kTiledTokensOfWide : kTiledTokens;
    if (args.x.rows <= few && can(MatmulPath::kTiled)) return MatmulPath::kTiled;
    if (can(MatmulPath::kCublas)) return MatmulPath::kCublas;
  }
  return can(MatmulPath::kTiled) ? MatmulPath::kTiled : MatmulPath::kGeneric;
}

void MultiplyBy(MatmulPath path, const MatmulArgs& args, CudaStream& stream) {
  switch (path) {
    case MatmulPath::kGeneric:
      return MultiplyGeneric(args, stream);
    case MatmulPath::kVector:
      return MultiplyVector(args, stream);
    case MatmulPath::kTiled:
      return MultiplyTiled(args, 0, stream);
    case MatmulPath::kCublas:
      return MultiplyCublas(args, stream);
  }
}

void Matmul(ConstMatrixView x, const WeightView& weight, ConstVectorView bias, MatrixView out,
            CudaStream& stream) {
  const MatmulArgs args = {x, weight, bias, out};
  MultiplyBy(ChoosePath(args, stream), args, stream);
}

void PrepareMatmul(const MatmulShape& shape, const WeightView& weight, CudaStream& stream) {
  // Dense views, aligned as allocations are; what they point to is not touched.
  void* aligned = stream.workspace();
  const MatmulArgs args = {
      DenseMatrix(static_cast<const void*>(aligned), shape.input, shape.tokens, weight.in_features),
      weight,
      {shape.has_bias ? aligned : nullptr, shape.output, weight.out_features},
      DenseMatrix(aligned, shape.output, shape.tokens, weight.out_features)};
  if (ChoosePath(args, stream) == MatmulPath::kCublas) PrepareCublas(args, stream);
}

}  // namespace caravan::cuda
