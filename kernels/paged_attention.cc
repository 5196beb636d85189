#include "kernels/paged_attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/paged.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"

namespace caravan {
namespace cuda {  // paged_attention.cu
void PagedAttention(ConstMatrixView q, const KvCacheView& kv, const PagedBatch& batch, float scale,
                    MatrixView out, CudaStream& stream);
void CopyKvBlocks(const KvCacheView& kv, std::span<const BlockCopy> copies, CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

constexpr int64_t kTilePositions = 32;  // of KV, and never across blocks
constexpr int64_t kItemRows = 48;       // query tokens x query heads of one KV head, about

// One KV head against some consecutive query tokens of one sequence.
struct WorkItem {
  int32_t sequence;
  int32_t kv_head;
  int32_t first_token;
  int32_t tokens;
  int32_t first_position;  // of first_token, in its sequence
};

struct Problem {
  const Primitives& primitives;
  ConstMatrixView q;
  const KvCacheView& kv;
  const PagedBatch& batch;
  float scale;
  MatrixView out;
  int64_t group;  // query heads of one KV head
};

// One thread's rows of one work item, token by token, the heads of a token together.
struct Rows {
  float* q;            // [rows, head_size]
  float* accumulator;  // [rows, head_size]
  float* scores;       // [rows, kTilePositions]
  SoftmaxState* states;
};

Rows PrepareRows(const Problem& problem, const WorkItem& item) {
  const int64_t size = problem.kv.head_size;
  const int64_t rows = item.tokens * problem.group;
  float* memory = FloatScratch(ScratchUse::kRow, rows * (2 * size + kTilePositions + 2));
  Rows result{memory, memory + rows * size, memory + 2 * rows * size,
              reinterpret_cast<SoftmaxState*>(memory + rows * (2 * size + kTilePositions))};
  const int64_t columns = problem.group * size;
  for (int64_t t = 0; t < item.tokens; ++t) {
    const std::byte* row = static_cast<const std::byte*>(problem.q.row(item.first_token + t));
    problem.primitives.to_float[IndexOf(problem.q.dtype)](
        row + item.kv_head * columns * SizeOf(problem.q.dtype), result.q + t * columns, columns);
  }
  std::fill_n(result.accumulator, rows * size, 0.0f);
  std::fill_n(result.states, rows, SoftmaxState{-std::numeric_limits<float>::infinity(), 0.0f});
  return result;
}

// Folds `count` positions from `values` on into rows [first, first + n), whose scores are there.
void FoldTile(const Problem& problem, const Rows& rows, int64_t first, int64_t n, int64_t count,
              const void* values) {
  const int64_t size = problem.kv.head_size;
  for (int64_t r = first; r < first + n; ++r) {
    const float correction = problem.primitives.softmax_tile(rows.scores + r * kTilePositions,
                                                             count, problem.scale, &rows.states[r]);
    if (correction != 1.0f) {
      problem.primitives.scale(rows.accumulator + r * size, correction, size);
    }
  }
  problem.primitives.weighted_sum[IndexOf(problem.kv.dtype)](
      {.p = rows.scores + first * kTilePositions,
       .p_stride = kTilePositions,
       .rows = n,
       .count = count,
       .v = values,
       .head_size = size,
       .acc = rows.accumulator + first * size,
       .acc_stride = size});
}

// All rows against the tile of positions [begin, begin + length). Tokens that see only its first
// part are folded one by one, so that no row ever meets a position after its own.
void AttendTile(const Problem& problem, const WorkItem& item, const Rows& rows, int64_t begin,
                int64_t length) {
  const KvCacheView& kv = problem.kv;
  const int64_t size = kv.head_size;
  const int64_t group = problem.group;
  const int64_t block = BlockOf(problem.batch, kv, item.sequence, begin / kv.block_tokens);
  const int64_t offset = begin % kv.block_tokens;
  const int64_t visible = std::min(length, int64_t{item.first_position} + item.tokens - begin);
  int64_t token = std::max<int64_t>(0, begin - item.first_position);
  problem.primitives.dot[IndexOf(kv.dtype)](
      {.x = rows.q + token * group * size,
       .x_stride = size,
       .rows = (item.tokens - token) * group,
       .w = CacheRow(kv, kv.keys, block, item.kv_head, offset),
       .w_stride = size,
       .cols = visible,
       .k = size,
       .out = rows.scores + token * group * kTilePositions,
       .out_stride = kTilePositions});
  const void* values = CacheRow(kv, kv.values, block, item.kv_head, offset);
  for (; token < item.tokens; ++token) {
    const int64_t count = item.first_position + token + 1 - begin;
    if (count >= length) break;
    FoldTile(problem, rows, token * group, group, count, values);
  }
  if (token < item.tokens) {
    FoldTile(problem, rows, token * group, (item.tokens - token) * group, length, values);
  }
}

void StoreRows(const Problem& problem, const WorkItem& item, const Rows& rows) {
  const int64_t size = problem.kv.head_size;
  const int64_t columns = problem.group * size;
  for (int64_t t = 0; t < item.tokens; ++t) {
    float* values = rows.accumulator + t * columns;
    for (int64_t h = 0; h < problem.group; ++h) {
      problem.primitives.scale(values + h * size, 1.0f / rows.states[t * problem.group + h].sum,
                               size);
    }
    const MatrixView out = problem.out.Columns(item.kv_head * columns, columns);
    problem.primitives.from_float[IndexOf(out.dtype)](values, out.row(item.first_token + t),
                                                      columns);
  }
}

// Fetches a tile that will be needed next: it lies in another block, which the processor can't
// guess.
void PrefetchTile(const Problem& problem, const WorkItem& item, int64_t begin, int64_t length) {
  const KvCacheView& kv = problem.kv;
  const int64_t block = BlockOf(problem.batch, kv, item.sequence, begin / kv.block_tokens);
  const int64_t bytes = length * kv.head_size * SizeOf(kv.dtype);
  for (void* memory : {kv.keys, kv.values}) {
    const char* tile = static_cast<const char*>(
        CacheRow(kv, memory, block, item.kv_head, begin % kv.block_tokens));
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(tile + line);
  }
}

void Attend(const Problem& problem, const WorkItem& item) {
  const Rows rows = PrepareRows(problem, item);
  const int64_t block_tokens = problem.kv.block_tokens;
  const int64_t context = int64_t{item.first_position} + item.tokens;
  const auto length_at = [&](int64_t begin) {
    return std::min(kTilePositions, block_tokens - begin % block_tokens);
  };
  for (int64_t begin = 0; begin < context;) {
    const int64_t length = length_at(begin);
    const int64_t next = begin + length;
    if (next < context) PrefetchTile(problem, item, next, length_at(next));
    AttendTile(problem, item, rows, begin, length);
    begin = next;
  }
  StoreRows(problem, item, rows);
}

void PagedAttention(ConstMatrixView q, const KvCacheView& kv, const PagedBatch& batch, float scale,
                    MatrixView out) {
  const Problem problem{
      ActivePrimitives(), q, kv, batch, scale, out, q.cols / kv.head_size / kv.kv_heads};
  const int64_t item_tokens = std::max<int64_t>(1, kItemRows / problem.group);
  const int64_t most_items = (q.rows / item_tokens + batch.num_sequences()) * kv.kv_heads;
  WorkItem* items = static_cast<WorkItem*>(
      Scratch(ScratchUse::kItems, most_items * static_cast<int64_t>(sizeof(WorkItem))));
  int64_t n = 0;
  int64_t operations = 0;
  for (int32_t s = 0; s < batch.num_sequences(); ++s) {
    const int32_t begin = batch.query_starts[static_cast<size_t>(s)];
    const int32_t end = batch.query_starts[static_cast<size_t>(s) + 1];
    const int32_t context = batch.context_lengths[static_cast<size_t>(s)];
    if (context == 0) continue;  // padding
    CARAVAN_CHECK(begin <= end && end - begin <= context, end - begin, " queries, context ",
                  context);
    operations += (end - begin) * int64_t{context} * q.cols * 2;
    for (int32_t token = begin; token < end; token += static_cast<int32_t>(item_tokens)) {
      const int32_t tokens = std::min(static_cast<int32_t>(item_tokens), end - token);
      for (int32_t g = 0; g < kv.kv_heads; ++g) {
        items[n++] = {s, g, token, tokens, context - (end - token)};
      }
    }
  }
  ParallelForEach(n, operations, [&](int64_t i) { Attend(problem, items[i]); });
}

void CopyKvBlocks(const KvCacheView& kv, std::span<const BlockCopy> copies) {
  const int64_t bytes = BlockElements(kv) * SizeOf(kv.dtype);
  for (const BlockCopy& copy : copies) {  // in order: one may read what another has written
    CARAVAN_CHECK(
        copy.from >= 0 && copy.from < kv.num_blocks && copy.to >= 0 && copy.to < kv.num_blocks,
        copy.from, " to ", copy.to, " of ", kv.num_blocks);
    if (copy.from == copy.to) continue;
    for (void* memory : {kv.keys, kv.values}) {
      std::byte* base = static_cast<std::byte*>(memory);
      std::memcpy(base + copy.to * bytes, base + copy.from * bytes, static_cast<size_t>(bytes));
    }
  }
}

}  // namespace
}  // namespace cpu

void PagedAttention(ConstMatrixView q, const KvCacheView& kv, const PagedBatch& batch, float scale,
                    MatrixView out, DeviceStream stream) {
  CARAVAN_CHECK(kv.format == KvFormat::kDense, "unknown KV format");
  CARAVAN_CHECK(kv.head_size > 0 && kv.kv_heads > 0 && kv.block_tokens > 0 &&
                    q.cols % (int64_t{kv.head_size} * kv.kv_heads) == 0,
                q.cols, " columns, ", kv.kv_heads, " KV heads of ", kv.head_size);
  CARAVAN_CHECK_EQ(out.rows, q.rows);
  CARAVAN_CHECK_EQ(out.cols, q.cols);
  CARAVAN_CHECK_EQ(static_cast<int64_t>(batch.query_starts.size()), batch.num_sequences() + 1);
  if (stream.device() == Device::kCpu) {
    CARAVAN_CHECK_EQ(int64_t{batch.query_starts.back()}, q.rows);
  }
  if (q.empty()) return;
  CARAVAN_DISPATCH(PagedAttention, stream, q, kv, batch, scale, out);
}

void CopyKvBlocks(const KvCacheView& kv, std::span<const BlockCopy> copies, DeviceStream stream) {
  CARAVAN_CHECK(kv.format == KvFormat::kDense, "unknown KV format");
  if (copies.empty()) return;
  CARAVAN_DISPATCH(CopyKvBlocks, stream, kv, copies);
}

}  // namespace caravan
