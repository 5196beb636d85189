#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"

namespace caravan {
namespace cpu {
namespace {

constexpr int64_t kFeatureBlock = 64;                 // output features that share one pass over x
constexpr int64_t kRowBlockBytes = int64_t{1} << 19;  // of x, about half of a core's L2 cache

// x in float32: itself, or a copy in the calling thread's scratch.
ConstMatrixView InFloat(const Primitives& primitives, ConstMatrixView x) {
  if (x.dtype == DType::kFloat32) return x;
  float* copy = FloatScratch(ScratchUse::kInput, x.rows * x.cols);
  ParallelFor(x.rows, 1, x.rows * x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      primitives.to_float[IndexOf(x.dtype)](x.row(t), copy + t * x.cols, x.cols);
    }
  });
  return DenseMatrix(static_cast<const void*>(copy), DType::kFloat32, x.rows, x.cols);
}

// out[:, begin … begin + count) = block (+ bias), rounded.
void StoreBlock(const Primitives& primitives, float* block, const float* bias, MatrixView out) {
  for (int64_t t = 0; t < out.rows; ++t) {
    float* row = block + t * out.cols;
    if (bias != nullptr) primitives.add(row, bias, row, out.cols);
    primitives.from_float[IndexOf(out.dtype)](row, out.row(t), out.cols);
  }
}

void Matmul(ConstMatrixView x, const WeightView& weight, ConstVectorView bias, MatrixView out) {
  const Primitives& primitives = ActivePrimitives();
  const int64_t k = x.cols;
  const ConstMatrixView input = InFloat(primitives, x);
  const float* bias_values = AsFloat(primitives, bias);
  const ConstMatrixView rows_of_weight =
      DenseMatrix(weight.data, weight.dtype, weight.out_features, weight.in_features);
  const int64_t row_block =
      std::clamp<int64_t>(kRowBlockBytes / (std::max<int64_t>(k, 1) * 4) / 6 * 6, 6, 512 / 6 * 6);
  ParallelFor(out.cols, 8, out.rows * out.cols * k, [&](int64_t begin, int64_t end) {
    float* block = FloatScratch(ScratchUse::kOutput, std::min(row_block, out.rows) * kFeatureBlock);
    for (int64_t n = begin; n < end; n += kFeatureBlock) {
      const int64_t cols = std::min(kFeatureBlock, end - n);
      for (int64_t t = 0; t < out.rows; t += row_block) {
        const int64_t rows = std::min(row_block, out.rows - t);
        primitives.dot[IndexOf(weight.dtype)]({.x = static_cast<const float*>(input.row(t)),
                                               .x_stride = input.row_stride,
                                               .rows = rows,
                                               .w = rows_of_weight.row(n),
                                               .w_stride = k,
                                               .cols = cols,
                                               .k = k,
                                               .out = block,
                                               .out_stride = cols});
        StoreBlock(primitives, block, bias_values == nullptr ? nullptr : bias_values + n,
                   out.Rows(t, rows).Columns(n, cols));
      }
    }
  });
}

}  // namespace
}  // namespace cpu

void Matmul(ConstMatrixView x, const WeightView& weight, ConstVectorView bias, MatrixView out,
            DeviceStream stream) {
  CARAVAN_CHECK(weight.format == WeightFormat::kDense, "unknown weight format");
  CARAVAN_CHECK_EQ(x.cols, weight.in_features);
  CARAVAN_CHECK_EQ(out.cols, weight.out_features);
  CARAVAN_CHECK_EQ(out.rows, x.rows);
  CARAVAN_CHECK(bias.empty() || bias.size == out.cols, bias.size, " against ", out.cols);
  if (out.empty()) return;
  CARAVAN_DISPATCH(Matmul, stream, x, weight, bias, out);
}

}  // namespace caravan
