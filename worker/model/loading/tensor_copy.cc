#include "worker/model/loading/tensor_copy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "common/status.h"
#include "worker/model/number_format.h"

namespace caravan {
namespace {

constexpr int64_t kTile =
    64;  // rows and columns that are turned at once: they stay in the L1 cache

TensorPart WholeOf(const TensorInfo& tensor) {
  TensorPart part;
  part.cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  part.rows = tensor.shape.size() < 2 ? 1 : tensor.shape[0];
  part.data = tensor.data;
  part.row_stride = part.cols;
  return part;
}

// What `slice` and [first, first + count) have in common, counted from `first`.
Slice Overlap(Slice slice, int64_t first, int64_t count) {
  const int64_t begin = std::max(slice.begin, first);
  const int64_t end = std::min(slice.begin + slice.count, first + count);
  return {begin - first, std::max<int64_t>(0, end - begin)};
}

// Where the copied part of a tensor goes: dense rows of `cols` elements of `dtype`.
struct Target {
  std::byte* data;
  DType dtype;
  int64_t cols;

  std::byte* At(int64_t row, int64_t col) const {
    return data + (row * cols + col) * SizeOf(dtype);
  }
};

struct Source {
  const std::byte* data;
  DType dtype;
  int64_t row_stride;
  int64_t col_stride;

  const std::byte* At(int64_t row, int64_t col) const {
    return data + (row * row_stride + col * col_stride) * SizeOf(dtype);
  }
};

void CopyRows(const Source& source, int64_t rows, int64_t cols, const Target& target) {
  if (source.row_stride == cols && target.cols == cols) {
    return ConvertElements(source.data, source.dtype, target.data, target.dtype, rows * cols);
  }
  for (int64_t row = 0; row < rows; ++row) {
    ConvertElements(source.At(row, 0), source.dtype, target.At(row, 0), target.dtype, cols);
  }
}

// Gathers tiles so that each source line is read once, whichever way it runs.
template <typename Bits>
void TurnRows(const Source& source, int64_t rows, int64_t cols, const Target& target) {
  Bits tile[kTile][kTile];
  for (int64_t row = 0; row < rows; row += kTile) {
    const int64_t tile_rows = std::min(kTile, rows - row);
    for (int64_t col = 0; col < cols; col += kTile) {
      const int64_t tile_cols = std::min(kTile, cols - col);
      for (int64_t c = 0; c < tile_cols; ++c) {
        for (int64_t r = 0; r < tile_rows; ++r) {
          std::memcpy(&tile[r][c], source.At(row + r, col + c), sizeof(Bits));
        }
      }
      for (int64_t r = 0; r < tile_rows; ++r) {
        ConvertElements(tile[r], source.dtype, target.At(row + r, col), target.dtype, tile_cols);
      }
    }
  }
}

void CopyPart(const TensorPart& part, DType dtype, Slice rows, Slice cols, const Target& target) {
  const Slice part_rows = Overlap(rows, part.first_row, part.rows);
  const Slice part_cols = Overlap(cols, part.first_col, part.cols);
  if (part_rows.count == 0 || part_cols.count == 0) return;
  const Source whole = {part.data, dtype, part.row_stride, part.col_stride};
  const Source source = {whole.At(part_rows.begin, part_cols.begin), dtype, part.row_stride,
                         part.col_stride};
  const Target place = {target.At(part.first_row + part_rows.begin - rows.begin,
                                  part.first_col + part_cols.begin - cols.begin),
                        target.dtype, target.cols};
  if (part.col_stride == 1) {
    CopyRows(source, part_rows.count, part_cols.count, place);
  } else if (SizeOf(dtype) == 2) {
    TurnRows<uint16_t>(source, part_rows.count, part_cols.count, place);
  } else {
    TurnRows<uint32_t>(source, part_rows.count, part_cols.count, place);
  }
}

void PrefetchPart(const TensorPart& part, DType dtype, Slice rows, Slice cols) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const Slice part_rows = Overlap(rows, part.first_row, part.rows);
  const Slice part_cols = Overlap(cols, part.first_col, part.cols);
  if (part_rows.count == 0 || part_cols.count == 0) return;
  const Source source = {part.data, dtype, part.row_stride, part.col_stride};
  const std::byte* begin = source.At(part_rows.begin, part_cols.begin);
  const std::byte* end =
      source.At(part_rows.begin + part_rows.count - 1, part_cols.begin + part_cols.count - 1) +
      SizeOf(dtype);
  begin -= reinterpret_cast<uintptr_t>(begin) % page;  // madvise wants whole pages
  madvise(const_cast<std::byte*>(begin), static_cast<size_t>(end - begin), MADV_WILLNEED);
}

template <typename Do>
void ForEachPart(const TensorInfo& tensor, const Do& what) {
  if (tensor.parts.empty()) return what(WholeOf(tensor));
  for (const TensorPart& part : tensor.parts) what(part);
}

}  // namespace

void CopyElements(const TensorInfo& tensor, Slice rows, Slice cols, DType to_dtype, std::byte* to) {
  const Target target = {to, to_dtype, cols.count};
  ForEachPart(tensor,
              [&](const TensorPart& part) { CopyPart(part, *tensor.dtype(), rows, cols, target); });
}

void PrefetchElements(const TensorInfo& tensor, Slice rows, Slice cols) {
  ForEachPart(tensor,
              [&](const TensorPart& part) { PrefetchPart(part, *tensor.dtype(), rows, cols); });
}

}  // namespace caravan
