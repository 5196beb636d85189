#include "kernels/rope_append_kv.h"

#include <algorithm>

#include "kernels/cpu/paged.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"

namespace caravan {
namespace cuda {  // rope_append_kv.cu
void RopeAppendKv(MatrixView qkv, ConstMatrixView cos_sin, std::span<const int32_t> rope_rows,
                  const PagedBatch& batch, const KvCacheView& kv, CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

// Where a query row's key and value go: block and position in it.
struct CacheSlot {
  int64_t block = 0;
  int64_t offset = 0;
};

int64_t SequenceOf(const PagedBatch& batch, int64_t token) {
  const auto next = std::upper_bound(batch.query_starts.begin(), batch.query_starts.end(), token);
  return next - batch.query_starts.begin() - 1;
}

bool IsPadding(const PagedBatch& batch, int64_t token) {
  return batch.context_lengths[static_cast<size_t>(SequenceOf(batch, token))] == 0;
}

CacheSlot SlotOf(const PagedBatch& batch, const KvCacheView& kv, int64_t token) {
  const int64_t s = SequenceOf(batch, token);
  const size_t index = static_cast<size_t>(s);
  const int64_t position = batch.context_lengths[index] - (batch.query_starts[index + 1] - token);
  CARAVAN_CHECK(position >= 0, "more queries than context in sequence ", s);
  return {BlockOf(batch, kv, s, position / kv.block_tokens), position % kv.block_tokens};
}

void RopeAppendKv(MatrixView qkv, ConstMatrixView cos_sin, std::span<const int32_t> rope_rows,
                  const PagedBatch& batch, const KvCacheView& kv) {
  const Primitives& primitives = ActivePrimitives();
  const int64_t size = kv.head_size;
  const int64_t q_heads = qkv.cols / size - int64_t{2} * kv.kv_heads;
  const auto from_float = primitives.from_float;
  ParallelFor(qkv.rows, 1, qkv.rows * qkv.cols, [&](int64_t begin, int64_t end) {
    float* row = FloatScratch(ScratchUse::kRow, qkv.cols);
    float* rotated = FloatScratch(ScratchUse::kOutput, size);
    for (int64_t t = begin; t < end; ++t) {
      if (IsPadding(batch, t)) continue;
      const int32_t rope_row = rope_rows[static_cast<size_t>(t)];
      CARAVAN_CHECK(rope_row >= 0 && rope_row < cos_sin.rows, rope_row, " of ", cos_sin.rows);
      const float* angles = static_cast<const float*>(cos_sin.row(rope_row));
      const float* x = AsFloat(primitives, qkv.row(t), qkv.dtype, qkv.cols, row);
      for (int64_t h = 0; h < q_heads; ++h) {
        primitives.rotate(x + h * size, angles, rotated, size);
        from_float[IndexOf(qkv.dtype)](rotated, qkv.Columns(h * size, size).row(t), size);
      }
      const CacheSlot slot = SlotOf(batch, kv, t);
      const float* keys = x + q_heads * size;
      const float* values = keys + kv.kv_heads * size;
      for (int64_t g = 0; g < kv.kv_heads; ++g) {
        primitives.rotate(keys + g * size, angles, rotated, size);
        from_float[IndexOf(kv.dtype)](rotated, CacheRow(kv, kv.keys, slot.block, g, slot.offset),
                                      size);
        from_float[IndexOf(kv.dtype)](values + g * size,
                                      CacheRow(kv, kv.values, slot.block, g, slot.offset), size);
      }
    }
  });
}

}  // namespace
}  // namespace cpu

void RopeAppendKv(MatrixView qkv, ConstMatrixView cos_sin, std::span<const int32_t> rope_rows,
                  const PagedBatch& batch, const KvCacheView& kv, DeviceStream stream) {
  CARAVAN_CHECK(kv.format == KvFormat::kDense, "unknown KV format");
  CARAVAN_CHECK(cos_sin.dtype == DType::kFloat32, NameOf(cos_sin.dtype));
  CARAVAN_CHECK(kv.head_size > 0 && kv.head_size % 2 == 0, "head size ", kv.head_size);
  CARAVAN_CHECK_EQ(cos_sin.cols, int64_t{kv.head_size});
  CARAVAN_CHECK(qkv.cols % kv.head_size == 0 && qkv.cols > int64_t{2} * kv.kv_heads * kv.head_size,
                qkv.cols, " columns, ", kv.kv_heads, " KV heads of ", kv.head_size);
  CARAVAN_CHECK_EQ(static_cast<int64_t>(rope_rows.size()), qkv.rows);
  CARAVAN_CHECK_EQ(static_cast<int64_t>(batch.query_starts.size()), batch.num_sequences() + 1);
  if (stream.device() == Device::kCpu) {
    CARAVAN_CHECK_EQ(int64_t{batch.query_starts.back()}, qkv.rows);
  }
  if (qkv.empty()) return;
  CARAVAN_DISPATCH(RopeAppendKv, stream, qkv, cos_sin, rope_rows, batch, kv);
}

}  // namespace caravan
