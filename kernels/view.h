// Non-owning views over dense memory, the arguments of every operator.
#pragma once

#include <cstddef>
#include <cstdint>

namespace caravan {

// Element type of activations, unpacked weights and KV. A property of the view, dispatched once
// inside each operator.
enum class DType : uint8_t { kFloat32, kFloat16, kBFloat16 };

constexpr int64_t SizeOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }
const char* NameOf(DType dtype);  // "float32", "float16", "bfloat16"

// A read-only matrix: `rows` rows of `cols` contiguous elements, row r at data + r · row_stride
// elements.
struct ConstMatrixView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // elements, ≥ cols

  const void* row(int64_t r) const {
    return static_cast<const std::byte*>(data) + r * row_stride * SizeOf(dtype);
  }
  bool empty() const { return data == nullptr || rows == 0 || cols == 0; }
};

// The same, writable.
struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // elements, ≥ cols

  void* row(int64_t r) const {
    return static_cast<std::byte*>(data) + r * row_stride * SizeOf(dtype);
  }
  bool empty() const { return data == nullptr || rows == 0 || cols == 0; }
  operator ConstMatrixView() const {  // NOLINT(google-explicit-constructor): a view of less
    return {data, dtype, rows, cols, row_stride};
  }
  // Rows [first, first + count) and columns [first, first + count), without copying.
  MatrixView Rows(int64_t first, int64_t count) const {
    return {row(first), dtype, count, cols, row_stride};
  }
  MatrixView Columns(int64_t first, int64_t count) const {
    return {static_cast<std::byte*>(data) + first * SizeOf(dtype), dtype, rows, count, row_stride};
  }
};

inline MatrixView DenseMatrix(void* data, DType dtype, int64_t rows, int64_t cols) {
  return {data, dtype, rows, cols, cols};
}
inline ConstMatrixView DenseMatrix(const void* data, DType dtype, int64_t rows, int64_t cols) {
  return {data, dtype, rows, cols, cols};
}

// A read-only vector; empty (data == nullptr) where an operator says that it is optional.
struct ConstVectorView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t size = 0;

  bool empty() const { return data == nullptr; }
};

// How a weight matrix is stored. Quantized formats are further enumerators here, never template
// arguments elsewhere.
enum class WeightFormat : uint8_t {
  kDense,  // row-major [out_features, in_features] of `dtype`
};

// A linear layer's weight in the Hugging Face orientation: y = x · Wᵀ.
struct WeightView {
  WeightFormat format = WeightFormat::kDense;
  DType dtype = DType::kFloat32;
  const void* data = nullptr;
  const void* scales = nullptr;  // kDense: unused
  int64_t out_features = 0;
  int64_t in_features = 0;
};

}  // namespace caravan
