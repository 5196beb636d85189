#include "kernels/rms_norm.h"

#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"

namespace caravan {
namespace cuda {  // rms_norm.cu
void RmsNorm(ConstMatrixView x, ConstVectorView weight, float epsilon, MatrixView out,
             CudaStream& stream);
void AddRmsNorm(ConstMatrixView delta, ConstVectorView weight, float epsilon, MatrixView residual,
                MatrixView out, CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

// One row: `x` in float32 to `out` in its own dtype.
void NormalizeRow(const Primitives& primitives, const float* x, const float* weight, float epsilon,
                  MatrixView out, int64_t row) {
  const int64_t hidden = out.cols;
  const float mean = primitives.sum_of_squares(x, hidden) / static_cast<float>(hidden);
  const float factor = 1.0f / std::sqrt(mean + epsilon);
  if (out.dtype == DType::kFloat32) {
    primitives.scale_by(x, factor, weight, static_cast<float*>(out.row(row)), hidden);
    return;
  }
  float* scaled = FloatScratch(ScratchUse::kOutput, hidden);
  primitives.scale_by(x, factor, weight, scaled, hidden);
  primitives.from_float[IndexOf(out.dtype)](scaled, out.row(row), hidden);
}

void RmsNorm(ConstMatrixView x, ConstVectorView weight, float epsilon, MatrixView out) {
  const Primitives& primitives = ActivePrimitives();
  const float* scale = AsFloat(primitives, weight);
  ParallelFor(x.rows, 1, x.rows * x.cols, [&](int64_t begin, int64_t end) {
    float* scratch = FloatScratch(ScratchUse::kRow, x.cols);
    for (int64_t t = begin; t < end; ++t) {
      const float* row = AsFloat(primitives, x.row(t), x.dtype, x.cols, scratch);
      NormalizeRow(primitives, row, scale, epsilon, out, t);
    }
  });
}

void AddRmsNorm(ConstMatrixView delta, ConstVectorView weight, float epsilon, MatrixView residual,
                MatrixView out) {
  const Primitives& primitives = ActivePrimitives();
  const float* scale = AsFloat(primitives, weight);
  const int64_t hidden = delta.cols;
  const int dtype = IndexOf(residual.dtype);
  ParallelFor(delta.rows, 1, delta.rows * hidden, [&](int64_t begin, int64_t end) {
    float* delta_scratch = FloatScratch(ScratchUse::kOther, hidden);
    float* sum = FloatScratch(ScratchUse::kRow, hidden);
    for (int64_t t = begin; t < end; ++t) {
      const float* addend = AsFloat(primitives, delta.row(t), delta.dtype, hidden, delta_scratch);
      const float* old = AsFloat(primitives, residual.row(t), residual.dtype, hidden, sum);
      primitives.add(old, addend, sum, hidden);
      primitives.from_float[dtype](sum, residual.row(t), hidden);
      const float* rounded = AsFloat(primitives, residual.row(t), residual.dtype, hidden, sum);
      NormalizeRow(primitives, rounded, scale, epsilon, out, t);
    }
  });
}

}  // namespace
}  // namespace cpu

void RmsNorm(ConstMatrixView x, ConstVectorView weight, float epsilon, MatrixView out,
             DeviceStream stream) {
  CARAVAN_CHECK_EQ(out.rows, x.rows);
  CARAVAN_CHECK_EQ(out.cols, x.cols);
  CARAVAN_CHECK_EQ(weight.size, x.cols);
  if (x.empty()) return;
  CARAVAN_DISPATCH(RmsNorm, stream, x, weight, epsilon, out);
}

void AddRmsNorm(ConstMatrixView delta, ConstVectorView weight, float epsilon, MatrixView residual,
                MatrixView out, DeviceStream stream) {
  CARAVAN_CHECK_EQ(residual.rows, delta.rows);
  CARAVAN_CHECK_EQ(residual.cols, delta.cols);
  CARAVAN_CHECK_EQ(out.rows, delta.rows);
  CARAVAN_CHECK_EQ(out.cols, delta.cols);
  CARAVAN_CHECK_EQ(weight.size, delta.cols);
  if (delta.empty()) return;
  CARAVAN_CHECK(out.data != residual.data, "AddRmsNorm: out may not be residual");
  CARAVAN_DISPATCH(AddRmsNorm, stream, delta, weight, epsilon, residual, out);
}

}  // namespace caravan
