#include "kernels/paged_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/paged_fixture.h"

namespace caravan {
namespace {

struct AttentionCase {
  AttentionTarget on;
  DType activations;
  DType kv;
};

class PagedAttentionTest : public testing::TestWithParam<AttentionCase> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(GetParam().on.target); }

  static Tensor RandomQueries(const AttentionShape& shape, int64_t rows) {
    return Tensor::Random(GetParam().activations, rows, shape.columns(), 3, 8);
  }
  static Tensor NoOutput(const AttentionShape& shape, int64_t rows) {
    return Tensor(GetParam().activations, rows, shape.columns(), 16);
  }
};

Expected ExpectedOf(const PagedSequences::Head& head, int64_t d, DType out) {
  const double value = head.value[static_cast<size_t>(d)];
  return {value, head.tolerance[static_cast<size_t>(d)] +
                     1.01 * UnitRoundoff(out) * std::fabs(value) + SmallestStep(out)};
}

// Runs the parts as one batch, the first `num_decodes` as decoding, and compares every row with
// float64. `extra_rows` belong to no sequence.
struct BatchOptions {
  int32_t num_decodes = 0;
  int64_t extra_rows = 0;
  int64_t padding = 8;  // elements after each row of q; twice as many after each row of out
};
void CheckAttention(const AttentionCase& types, const AttentionShape& shape,
                    const std::vector<QueryPart>& parts, const BatchOptions& options) {
  SCOPED_TRACE(testing::Message() << shape.q_heads << " / " << shape.kv_heads << " heads of "
                                  << shape.head_size << ", blocks of " << shape.block_tokens);
  std::vector<int32_t> lengths;
  for (const QueryPart& part : parts) {
    lengths.resize(std::max(lengths.size(), part.s + 1));
    lengths[part.s] = std::max(lengths[part.s], part.context());
  }
  const PagedSequences sequences(types.kv, shape, lengths);
  struct RowOf {
    size_t s;
    int32_t position;  // -1: padding
  };
  std::vector<RowOf> rows;
  for (const QueryPart& part : parts) {
    if (part.context() == 0) rows.push_back({part.s, -1});
    for (int32_t i = 0; i < part.count; ++i) rows.push_back({part.s, part.first + i});
  }
  rows.resize(rows.size() + static_cast<size_t>(options.extra_rows), {0, -1});
  const Tensor q = Tensor::Random(types.activations, static_cast<int64_t>(rows.size()),
                                  shape.columns(), 3, options.padding);
  Tensor out(types.activations, q.rows(), shape.columns(), 2 * options.padding);
  sequences.Run(types.on, parts, options.num_decodes, q, &out);
  std::vector<std::vector<PagedSequences::Head>> heads(rows.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int64_t c = 0; rows[r].position < 0 && c < out.cols(); ++c) {
      out.Set(static_cast<int64_t>(r), c, 0);  // may hold anything
    }
    for (int64_t h = 0; rows[r].position >= 0 && h < shape.q_heads; ++h) {
      heads[r].push_back(sequences.Reference(types.on, rows[r].s, rows[r].position, h,
                                             q.Row(static_cast<int64_t>(r))));
    }
  }
  EXPECT_TRUE(IsClose(out, [&](int64_t r, int64_t c) {
    const auto& row = heads[static_cast<size_t>(r)];
    if (row.empty()) return Expected{0, 0};
    return ExpectedOf(row[static_cast<size_t>(c / shape.head_size)], c % shape.head_size,
                      types.activations);
  }));
}

TEST_P(PagedAttentionTest, AgreesWithFloat64ForEveryHeadSize) {
  for (int32_t size : {32, 34, 40, 64, 72, 80, 96, 112, 128, 136, 160, 192, 256}) {
    CheckAttention(GetParam(), {4, 2, size, 16}, {{0, 0, 1}, {1, 40, 1}, {2, 0, 0}, {3, 30, 5}},
                   {.num_decodes = 2});
  }
}

TEST_P(PagedAttentionTest, AgreesWithFloat64ForEveryGrouping) {
  for (auto [q_heads, kv_heads] :
       {std::pair{1, 1}, {3, 3}, {2, 1}, {4, 1}, {6, 2}, {8, 1}, {16, 2}, {17, 1}, {32, 1}}) {
    CheckAttention(GetParam(), {q_heads, kv_heads, 32, 16}, {{0, 32, 1}, {1, 0, 33}, {2, 31, 32}},
                   {.num_decodes = 1});
  }
}

TEST_P(PagedAttentionTest, AgreesWithFloat64ForEveryBlockSize) {
  for (int32_t block : {1, 8, 16, 24, 32, 64, 100, 1024}) {
    CheckAttention(GetParam(), {2, 1, 64, block}, {{0, 0, 1}, {1, 130, 1}, {2, 127, 3}, {3, 0, 70}},
                   {.num_decodes = 2});
  }
}

TEST_P(PagedAttentionTest, AgreesWithFloat64AroundTheBordersOfTilesWhileDecoding) {
  std::vector<QueryPart> parts;
  for (int32_t context : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 2100}) {
    parts.push_back({parts.size(), context - 1, 1});
  }
  for (int32_t size : {64, 96, 128, 256}) {
    CheckAttention(GetParam(), {4, 2, size, 16}, parts,
                   {.num_decodes = static_cast<int32_t>(parts.size())});
  }
}

TEST_P(PagedAttentionTest, AgreesWithFloat64AroundTheBordersOfTilesInPrompts) {
  const std::vector<QueryPart> parts = {{0, 0, 1},   {1, 0, 31},  {2, 0, 32},    {3, 0, 33},
                                        {4, 0, 63},  {5, 0, 64},  {6, 0, 65},    {7, 63, 2},
                                        {8, 64, 64}, {9, 0, 129}, {10, 100, 130}};
  for (int32_t size : {64, 128, 256}) CheckAttention(GetParam(), {4, 2, size, 16}, parts, {});
  CheckAttention(GetParam(), {1, 1, 64, 16}, {{0, 1900, 200}}, {});
}

// Few sequences are split over more workers than they have steps, many over fewer.
TEST_P(PagedAttentionTest, AgreesWithFloat64HoweverTheWorkIsSplit) {
  CheckAttention(GetParam(), {4, 1, 64, 16}, {{0, 5000, 1}}, {.num_decodes = 1});
  CheckAttention(GetParam(), {8, 8, 64, 16}, {{0, 700, 1}, {1, 3, 1}}, {.num_decodes = 2});
  std::vector<QueryPart> parts;
  parts.reserve(1101);
  for (int32_t s = 0; s < 1100; ++s) parts.push_back({static_cast<size_t>(s), s % 41, 1});
  parts.push_back({0, 0, 3});
  CheckAttention(GetParam(), {2, 1, 32, 16}, parts, {.num_decodes = 1100});
}

// A graph's batch is larger than what runs in it.
TEST_P(PagedAttentionTest, PaddingIsHarmless) {
  const std::vector<QueryPart> parts = {{0, 40, 1}, {1, 0, 0},  {2, 99, 1}, {3, 0, 0},
                                        {4, 0, 0},  {5, 8, 20}, {6, 0, 0}};
  const int64_t extra = GetParam().on.target.device == Device::kCuda ? 5 : 0;
  CheckAttention(GetParam(), {4, 2, 64, 16}, parts, {.num_decodes = 5, .extra_rows = extra});
  CheckAttention(GetParam(), {4, 2, 64, 16}, {{0, 0, 0}, {1, 0, 0}}, {.num_decodes = 2});
}

TEST_P(PagedAttentionTest, RowsNeedNotBeAligned) {
  CheckAttention(GetParam(), {4, 2, 64, 16}, {{0, 40, 1}, {1, 0, 37}},
                 {.num_decodes = 1, .padding = 3});
}

TEST_P(PagedAttentionTest, GivesTheSameBitsEachTime) {
  const AttentionShape shape = {8, 2, 64, 16};
  const PagedSequences sequences(GetParam().kv, shape, {900, 70, 333});
  const std::vector<QueryPart> parts = {{0, 899, 1}, {1, 69, 1}, {2, 300, 33}};
  const Tensor q = RandomQueries(shape, 35);
  Tensor first = NoOutput(shape, 35);
  sequences.Run(GetParam().on, parts, 2, q, &first);
  for (int repeat = 0; repeat < 3; ++repeat) {
    Tensor again = NoOutput(shape, 35);
    sequences.Run(GetParam().on, parts, 2, q, &again);
    for (int64_t r = 0; r < 35; ++r) ASSERT_EQ(again.Bits(r), first.Bits(r)) << r;
  }
}

bool IsBatchInvariant(const Target& target) {
  return target.device == Device::kCpu || target.batch_invariant;
}

// The bits of each token: in one chunk, in chunks of other sizes, alone (as decoding), in a batch
// with others.
TEST_P(PagedAttentionTest, BitsDependNeitherOnChunksNorOnTheBatch) {
  if (!IsBatchInvariant(GetParam().on.target)) GTEST_SKIP() << "not promised";
  const int32_t length = 130;
  for (int32_t size : {48, 128, 256}) {
    const AttentionShape shape = {6, 2, size, 16};
    const PagedSequences sequences(GetParam().kv, shape, {length, 57});
    const Tensor q = RandomQueries(shape, length);
    Tensor whole = NoOutput(shape, length);
    sequences.Run(GetParam().on, {{0, 0, length}}, 0, q, &whole);
    const Tensor other = RandomQueries(shape, 64);
    for (int32_t chunk : {1, 3, 7, 64}) {
      ScopedThreads threads(chunk % 3 + 1);
      const int32_t stride = chunk == 1 ? 9 : chunk;  // some tokens will do
      for (int32_t first = 0; first < length; first += stride) {
        const int32_t count = std::min(chunk, length - first);
        const int32_t before = chunk == 7 ? 5 : chunk == 1 ? 1 : 0;  // rows of another sequence
        Tensor batch = NoOutput(shape, before + count);
        for (int64_t r = 0; r < before + count; ++r) {
          for (int64_t c = 0; c < batch.cols(); ++c) {
            batch.Set(r, c, r < before ? other.at(r, c) : q.at(first + r - before, c));
          }
        }
        Tensor out = NoOutput(shape, before + count);
        std::vector<QueryPart> parts = {{0, first, count}};
        if (before > 0) parts.insert(parts.begin(), {1, 57 - before, before});
        sequences.Run(GetParam().on, parts, chunk == 1 ? 2 : 0, batch, &out);
        for (int64_t r = 0; r < count; ++r) {
          ASSERT_EQ(out.Bits(before + r), whole.Bits(first + r))
              << "position " << first + r << ", chunks of " << chunk << ", heads of " << size;
        }
      }
    }
  }
}

std::string NameOf(const testing::TestParamInfo<AttentionCase>& info) {
  return NameOf(info.param.on.target) + (info.param.on.portable ? "_portable_" : "_") +
         NameOf(info.param.activations) + "_" + NameOf(info.param.kv);
}

std::vector<AttentionCase> AllCases() {
  std::vector<AttentionCase> cases;
  for (const Target& target : AllTargets()) {
    for (DType dtype : kAllDTypes) cases.push_back({{target}, dtype, dtype});
    cases.push_back({{target}, DType::kBFloat16, DType::kFloat32});
    cases.push_back({{target}, DType::kFloat32, DType::kFloat16});
    if (target.device == Device::kCpu) continue;
    for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
      cases.push_back({{target, true}, dtype, dtype});
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, PagedAttentionTest, testing::ValuesIn(AllCases()),
                         [](const auto& info) { return NameOf(info); });

class CopyKvBlocksTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(GetParam()); }
};

TEST_P(CopyKvBlocksTest, CopiesInOrderAndLeavesTheRestAlone) {
  for (const AttentionShape& shape : {AttentionShape{2, 2, 32, 8}, {1, 1, 34, 1}}) {
    const PagedSequences sequences(DType::kFloat16, shape, {8 * shape.block_tokens});
    const int64_t rows = int64_t{shape.kv_heads} * shape.block_tokens;
    const auto block_bits = [&](const Tensor& memory, int64_t block) {
      std::string bits;
      for (int64_t r = 0; r < rows; ++r) bits += memory.Bits(block * rows + r);
      return bits;
    };
    Tensor keys = sequences.keys();
    Tensor values = sequences.values();
    const std::vector<BlockCopy> copies = {{1, 4}, {4, 2}, {3, 3}, {5, 1}};
    TargetRun run(GetParam());
    KvCacheView kv = sequences.kv();
    kv.keys = run.Out(keys).data;
    kv.values = run.Out(values).data;
    CopyKvBlocks(kv, run.In(copies), run.stream());
    run.Finish();
    const std::vector<int64_t> source = {0, 5, 1, 3, 1};
    for (int64_t b = 0; b < kv.num_blocks; ++b) {
      const int64_t from = b < std::ssize(source) ? source[static_cast<size_t>(b)] : b;
      EXPECT_EQ(block_bits(keys, b), block_bits(sequences.keys(), from)) << b;
      EXPECT_EQ(block_bits(values, b), block_bits(sequences.values(), from)) << b;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CopyKvBlocksTest, testing::ValuesIn(AllTargets()),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace caravan
