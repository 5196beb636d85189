#include "kernels/device/elements.cuh"
#include "kernels/device/matmul/paths.h"
#include "kernels/matmul.h"
#include "kernels/swiglu.h"

namespace caravan::cuda {
namespace {

// Up to so many tokens the tiles are faster than cuBLASLt (docs/decisions/0020).
constexpr int64_t kTiledTokens = 16;
constexpr int64_t kTiledTokensOfFullWaves = 32;

// Whether blocks of 32 features, three on each multiprocessor, fill their last wave by 45 %. With
// an emptier one cuBLASLt is faster from 17 tokens on.
bool FillsWaves(int64_t features, int multiprocessors) {
  const int64_t wave = 3 * int64_t{multiprocessors};
  const int64_t last = (features + 31) / 32 % wave;
  return last == 0 || 100 * last >= 45 * wave;
}

bool IsHalf(DType dtype) { return dtype != DType::kFloat32; }

// Tiles of a gated product take eight rows of each half by turns.
bool CanGate(const WeightView& weight) { return weight.out_features % 16 == 0; }

}  // namespace

const char* NameOf(MatmulPath path) {
  switch (path) {
    case MatmulPath::kGeneric:
      return "generic";
    case MatmulPath::kVector:
      return "vector";
    case MatmulPath::kTiled:
      return "tiled";
    case MatmulPath::kStreamed:
      return "streamed";
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

bool CanMultiply(MatmulPath path, const MatmulArgs& args, const CudaStream& stream) {
  switch (path) {
    case MatmulPath::kGeneric:
      return true;
    case MatmulPath::kVector:
      return InputsAreAligned(args) && args.x.rows <= kMaxVectorTokens;
    case MatmulPath::kTiled:
      return InputsAreAligned(args) && IsHalf(args.x.dtype);
    case MatmulPath::kStreamed:
      return InputsAreAligned(args) && IsHalf(args.x.dtype) && args.x.rows <= kMaxStreamedTokens &&
             (args.out.dtype == args.x.dtype || args.out.dtype == DType::kFloat32) &&
             stream.device().compute_capability == 90;
    case MatmulPath::kCublas:
      return InputsAreAligned(args) && IsAligned16(args.out.data) &&
             (args.out.dtype == args.x.dtype || args.out.dtype == DType::kFloat32) &&
             (args.bias.empty() || args.bias.dtype == args.out.dtype);
  }
  return false;
}

MatmulPath ChoosePath(const MatmulArgs& args, const CudaStream& stream) {
  const auto can = [&](MatmulPath path) { return CanMultiply(path, args, stream); };
  if (!stream.batch_invariant()) {
    if (can(MatmulPath::kVector)) return MatmulPath::kVector;
    if (can(MatmulPath::kStreamed)) return MatmulPath::kStreamed;
    const int64_t few = FillsWaves(args.out.cols, stream.device().num_multiprocessors)
                            ? kTiledTokensOfFullWaves
                            : kTiledTokens;
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
    case MatmulPath::kStreamed:
      return MultiplyStreamed(args, PlanStreamed(args, stream), stream);
    case MatmulPath::kCublas:
      return MultiplyCublas(args, stream);
  }
}

void Matmul(ConstMatrixView x, const WeightView& weight, ConstVectorView bias, MatrixView out,
            CudaStream& stream) {
  const MatmulArgs args = {x, weight, bias, out};
  MultiplyBy(ChoosePath(args, stream), args, stream);
}

void MatmulSwiGlu(const GatedProduct& product, CudaStream& stream) {
  const auto& [x, weight, bias, gate_up, out] = product;
  const MatmulArgs args = {x, weight, bias, gate_up};
  const MatmulPath path = ChoosePath(args, stream);
  const MatmulArgs gated = {x, weight, bias, out};
  if (path == MatmulPath::kStreamed && gate_up.dtype == x.dtype && CanGate(weight) &&
      CanMultiply(path, gated, stream)) {
    MultiplyStreamed(gated, PlanStreamed(gated, stream), stream);
    return;
  }
  MultiplyBy(path, args, stream);
  SwiGlu(gate_up, out, DeviceStream::Cuda(stream));
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
