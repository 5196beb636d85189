#include "kernels/embedding.h"

#include <cstring>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"

namespace caravan {
namespace cuda {  // embedding.cu
void Embedding(std::span<const int32_t> token_ids, ConstMatrixView table, int32_t vocab_begin,
               MatrixView out, CudaStream& stream);
void GatherRows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView out,
                CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

void CopyRow(const Primitives& primitives, ConstMatrixView from, int64_t from_row, MatrixView to,
             int64_t to_row) {
  if (from.dtype == to.dtype) {
    std::memcpy(to.row(to_row), from.row(from_row),
                static_cast<size_t>(to.cols * SizeOf(to.dtype)));
    return;
  }
  const float* row = AsFloat(primitives, from.row(from_row), from.dtype, from.cols,
                             FloatScratch(ScratchUse::kRow, from.cols));
  primitives.from_float[IndexOf(to.dtype)](row, to.row(to_row), to.cols);
}

void Embedding(std::span<const int32_t> token_ids, ConstMatrixView table, int32_t vocab_begin,
               MatrixView out) {
  const Primitives& primitives = ActivePrimitives();
  ParallelFor(out.rows, 1, out.rows * out.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = int64_t{token_ids[static_cast<size_t>(t)]} - vocab_begin;
      if (row >= 0 && row < table.rows) {
        CopyRow(primitives, table, row, out, t);
      } else {
        std::memset(out.row(t), 0, static_cast<size_t>(out.cols * SizeOf(out.dtype)));
      }
    }
  });
}

void GatherRows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView out) {
  const Primitives& primitives = ActivePrimitives();
  ParallelFor(out.rows, 1, out.rows * out.cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t row = rows[static_cast<size_t>(i)];
      CARAVAN_CHECK(row >= 0 && row < x.rows, "row ", row, " of ", x.rows);
      CopyRow(primitives, x, row, out, i);
    }
  });
}

}  // namespace
}  // namespace cpu

void Embedding(std::span<const int32_t> token_ids, ConstMatrixView table, int32_t vocab_begin,
               MatrixView out, DeviceStream stream) {
  CARAVAN_CHECK_EQ(out.rows, static_cast<int64_t>(token_ids.size()));
  CARAVAN_CHECK_EQ(out.cols, table.cols);
  if (out.empty()) return;
  CARAVAN_DISPATCH(Embedding, stream, token_ids, table, vocab_begin, out);
}

void GatherRows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView out,
                DeviceStream stream) {
  CARAVAN_CHECK_EQ(out.rows, static_cast<int64_t>(rows.size()));
  CARAVAN_CHECK_EQ(out.cols, x.cols);
  CARAVAN_CHECK(out.dtype == x.dtype, NameOf(out.dtype), " against ", NameOf(x.dtype));
  if (out.empty()) return;
  CARAVAN_DISPATCH(GatherRows, stream, x, rows, out);
}

}  // namespace caravan
