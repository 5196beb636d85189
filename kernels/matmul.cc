#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"
#include "kernels/swiglu.h"

namespace caravan {
namespace cuda {  // matmul.cu
void Matmul(ConstMatrixView x, const WeightView& weight, ConstVectorView bias, MatrixView out,
            CudaStream& stream);
void MatmulSwiGlu(const GatedProduct& product, CudaStream& stream);
void PrepareMatmul(const MatmulShape& shape, const WeightView& weight, CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

constexpr int64_t kWeightBlockBytes = int64_t{3} << 17;  // leaves room in an L2 cache of 512 KiB
constexpr int64_t kRowBlock = 48;
// Rows that are converted to float32 at a time: bounds the scratch memory, and makes the weights
// pass by so seldom that it costs nothing.
constexpr int64_t kInputRows = 512;

// Output features whose weights stay in the L2 cache while all rows pass by.
int64_t FeatureBlock(const WeightView& weight) {
  const int64_t row_bytes = std::max<int64_t>(1, weight.in_features) * SizeOf(weight.dtype);
  return std::clamp<int64_t>(kWeightBlockBytes / row_bytes / 32 * 32, 32, 256);
}

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

// At most kInputRows rows, `bias` in float32 or null.
void MultiplyRows(const Primitives& primitives, ConstMatrixView x, const WeightView& weight,
                  const float* bias, MatrixView out) {
  const int64_t k = x.cols;
  const ConstMatrixView input = InFloat(primitives, x);
  const ConstMatrixView rows_of_weight =
      DenseMatrix(weight.data, weight.dtype, weight.out_features, weight.in_features);
  const int64_t feature_block = FeatureBlock(weight);
  ParallelFor(out.cols, 8, out.rows * out.cols * k, [&](int64_t begin, int64_t end) {
    float* block = FloatScratch(ScratchUse::kOutput, std::min(kRowBlock, out.rows) * feature_block);
    for (int64_t n = begin; n < end; n += feature_block) {
      const int64_t cols = std::min(feature_block, end - n);
      for (int64_t t = 0; t < out.rows; t += kRowBlock) {
        const int64_t rows = std::min(kRowBlock, out.rows - t);
        primitives.dot[IndexOf(weight.dtype)]({.x = static_cast<const float*>(input.row(t)),
                                               .x_stride = input.row_stride,
                                               .rows = rows,
                                               .w = rows_of_weight.row(n),
                                               .w_stride = k,
                                               .cols = cols,
                                               .k = k,
                                               .out = block,
                                               .out_stride = cols});
        StoreBlock(primitives, block, bias == nullptr ? nullptr : bias + n,
                   out.Rows(t, rows).Columns(n, cols));
      }
    }
  });
}

void Matmul(ConstMatrixView x, const WeightView& weight, ConstVectorView bias, MatrixView out) {
  const Primitives& primitives = ActivePrimitives();
  const float* bias_values = AsFloat(primitives, bias);
  for (int64_t t = 0; t < x.rows; t += kInputRows) {
    const int64_t rows = std::min(kInputRows, x.rows - t);
    const ConstMatrixView part = {x.row(t), x.dtype, rows, x.cols, x.row_stride};
    MultiplyRows(primitives, part, weight, bias_values, out.Rows(t, rows));
  }
}

void MatmulSwiGlu(const GatedProduct& product) {
  Matmul(product.x, product.weight, product.bias, product.gate_up);
  SwiGlu(product.gate_up, product.out, DeviceStream::Cpu());
}

void PrepareMatmul(const MatmulShape&, const WeightView&) {}

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

void MatmulSwiGlu(const GatedProduct& product, DeviceStream stream) {
  const auto& [x, weight, bias, gate_up, out] = product;
  CARAVAN_CHECK(weight.format == WeightFormat::kDense, "unknown weight format");
  CARAVAN_CHECK_EQ(x.cols, weight.in_features);
  CARAVAN_CHECK_EQ(gate_up.cols, weight.out_features);
  CARAVAN_CHECK_EQ(2 * out.cols, weight.out_features);
  CARAVAN_CHECK_EQ(gate_up.rows, x.rows);
  CARAVAN_CHECK_EQ(out.rows, x.rows);
  CARAVAN_CHECK(bias.empty() || bias.size == gate_up.cols, bias.size, " against ", gate_up.cols);
  if (out.empty()) return;
  CARAVAN_DISPATCH(MatmulSwiGlu, stream, product);
}

void PrepareMatmul(const MatmulShape& shape, const WeightView& weight, DeviceStream stream) {
  CARAVAN_CHECK(shape.tokens >= 0, shape.tokens, " tokens");
  if (shape.tokens == 0 || weight.out_features == 0) return;
  CARAVAN_DISPATCH(PrepareMatmul, stream, shape, weight);
}

}  // namespace caravan
