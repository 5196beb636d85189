#include "worker/model/tensor_copy.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace caravan {
namespace {

// A matrix whose element (r, c) is r * 1000 + c, cut into parts that lie transposed or not.
class MatrixInParts {
 public:
  MatrixInParts(int64_t rows, int64_t cols, std::vector<int64_t> row_cuts, bool transposed) {
    info_.name = "w";
    info_.dtype_name = "F32";
    info_.shape = {rows, cols};
    row_cuts.push_back(rows);
    int64_t first = 0;
    memory_.resize(row_cuts.size());
    for (size_t i = 0; i < row_cuts.size(); ++i) {
      const int64_t count = row_cuts[i] - first;
      memory_[i].resize(static_cast<size_t>(count * cols));
      TensorPart part = {
          first, count, 0, cols, nullptr, transposed ? 1 : cols, transposed ? count : 1};
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          memory_[i][static_cast<size_t>(r * part.row_stride + c * part.col_stride)] =
              static_cast<float>((first + r) * 1000 + c);
        }
      }
      part.data = reinterpret_cast<const std::byte*>(memory_[i].data());
      info_.parts.push_back(part);
      first = row_cuts[i];
    }
  }
  const TensorInfo& info() const { return info_; }

 private:
  std::vector<std::vector<float>> memory_;
  TensorInfo info_;
};

void ExpectCopied(const TensorInfo& tensor, Slice rows, Slice cols) {
  std::vector<float> copy(static_cast<size_t>(rows.count * cols.count), -1);
  PrefetchElements(tensor, rows, cols);
  CopyElements(tensor, rows, cols, DType::kFloat32, reinterpret_cast<std::byte*>(copy.data()));
  for (int64_t r = 0; r < rows.count; ++r) {
    for (int64_t c = 0; c < cols.count; ++c) {
      ASSERT_EQ(copy[static_cast<size_t>(r * cols.count + c)],
                static_cast<float>((rows.begin + r) * 1000 + cols.begin + c))
          << r << " " << c;
    }
  }
}

TEST(TensorCopy, AnySliceOfAnyPartsIsTheMatrixs) {
  std::mt19937_64 random(7);
  const auto slice = [&](int64_t size) -> Slice {
    const auto begin = static_cast<int64_t>(random() % static_cast<uint64_t>(size));
    return {begin, 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(size - begin))};
  };
  for (const bool transposed : {false, true}) {
    for (const auto& cuts : std::vector<std::vector<int64_t>>{{}, {50}, {33, 66}, {1, 64, 65}}) {
      const MatrixInParts matrix(100, 130, cuts, transposed);
      ExpectCopied(matrix.info(), {0, 100}, {0, 130});
      for (int i = 0; i < 20; ++i) ExpectCopied(matrix.info(), slice(100), slice(130));
    }
  }
}

TEST(TensorCopy, ConvertsWhatItTurns) {
  const MatrixInParts matrix(3, 70, {}, /*transposed=*/true);
  std::vector<uint16_t> copy(3 * 70);
  CopyElements(matrix.info(), {0, 3}, {0, 70}, DType::kBFloat16,
               reinterpret_cast<std::byte*>(copy.data()));
  EXPECT_EQ(copy[2], 0x4000);       // 2
  EXPECT_EQ(copy[69], 0x428A);      // 69
  EXPECT_EQ(copy[70], 0x447A);      // 1000
  EXPECT_EQ(copy[2 * 70], 0x44FA);  // 2000
}

TEST(TensorCopy, AVectorIsOneRow) {
  std::vector<float> values(10);
  std::iota(values.begin(), values.end(), 0.0F);
  TensorInfo info;
  info.dtype_name = "F32";
  info.shape = {10};
  info.data = reinterpret_cast<const std::byte*>(values.data());
  ExpectCopied(info, {0, 1}, {3, 5});
}

}  // namespace
}  // namespace caravan
