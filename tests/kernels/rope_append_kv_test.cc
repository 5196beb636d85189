#include "kernels/rope_append_kv.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

using RopeCase = std::tuple<Target, DType, DType>;  // of qkv, of the cache
class RopeAppendKvTest : public testing::TestWithParam<RopeCase> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(std::get<0>(GetParam())); }
};

struct RopeShape {
  int32_t q_heads;
  int32_t kv_heads;
  int32_t head_size;
  int32_t block_tokens;
};

// One call over a decoding sequence, padding, a fresh sequence, one without queries, one that goes
// on in the middle of a block. `padding` elements follow each row of qkv.
class RopeCall {
 public:
  RopeCall(const RopeCase& types, const RopeShape& shape, int64_t padding)
      : shape_(shape),
        before_(Tensor::Random(std::get<1>(types), kTokens,
                               int64_t{shape.q_heads + 2 * shape.kv_heads} * shape.head_size, 1,
                               padding)),
        after_(before_),
        cos_sin_(DType::kFloat32, 64, shape.head_size, 2),
        keys_(std::get<2>(types), kBlocks * shape.kv_heads * shape.block_tokens, shape.head_size),
        values_(keys_) {
    const int32_t half = shape.head_size / 2;
    for (int64_t r = 0; r < 64; ++r) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(r) * std::pow(1e4, -static_cast<double>(i) / half);
        cos_sin_.Set(r, i, std::cos(angle));
        cos_sin_.Set(r, half + i, std::sin(angle));
      }
    }
    for (int64_t i = 0; i < kSequences * kTableStride; ++i) {
      table_.push_back(static_cast<int32_t>((7 * i + 5) % kBlocks));
    }
    Run(std::get<0>(types));
  }

  // Element d of head h of token t, rotated, with its bound: two products, one sum, one rounding.
  Expected Rotated(int64_t t, int64_t h, int64_t d, DType out) const {
    const int64_t half = shape_.head_size / 2;
    const int64_t i = d % half;
    const double a = before_.at(t, h * shape_.head_size + i);
    const double b = before_.at(t, h * shape_.head_size + half + i);
    const double c = cos_sin_.at(rope_rows_[t], i);
    const double s = cos_sin_.at(rope_rows_[t], half + i);
    const double value = d < half ? a * c - b * s : b * c + a * s;
    const double norm = std::fabs(a) + std::fabs(b);
    return {value, 3 * UnitRoundoff(DType::kFloat32) * norm +
                       1.01 * UnitRoundoff(out) * std::fabs(value) + SmallestStep(out)};
  }

  void CheckQueries() const {
    EXPECT_TRUE(IsClose(after_, [&](int64_t t, int64_t c) {
      const int64_t head = c / shape_.head_size;
      if (head < shape_.q_heads && !IsPadding(t)) {
        return Rotated(t, head, c % shape_.head_size, before_.dtype());
      }
      // Keys and values of qkv stay as they are, and so does padding.
      return Expected{before_.at(t, c), 0};
    }));
  }

  void CheckCache() const {
    std::vector<int64_t> token_of_row(static_cast<size_t>(keys_.rows()), -1);
    std::vector<int64_t> head_of_row(token_of_row);
    for (int64_t s = 0; s < kSequences; ++s) {
      if (contexts_[s] == 0) continue;
      for (int64_t t = starts_[s]; t < starts_[s + 1]; ++t) {
        const int64_t position = contexts_[s] - (starts_[s + 1] - t);
        const int64_t block =
            table_[table_rows_[s] * kTableStride + position / shape_.block_tokens];
        for (int64_t g = 0; g < shape_.kv_heads; ++g) {
          const int64_t row =
              (block * shape_.kv_heads + g) * shape_.block_tokens + position % shape_.block_tokens;
          token_of_row[row] = t;
          head_of_row[row] = g;
        }
      }
    }
    const Tensor untouched(keys_.dtype(), 1, shape_.head_size);
    for (int64_t row = 0; row < keys_.rows(); ++row) {
      if (token_of_row[row] < 0) {
        ASSERT_EQ(keys_.Bits(row), untouched.Bits(0)) << row;
        ASSERT_EQ(values_.Bits(row), untouched.Bits(0)) << row;
      } else {
        CheckCacheRow(row, token_of_row[row], head_of_row[row]);
      }
    }
  }

 private:
  static constexpr int64_t kSequences = 5;
  static constexpr int64_t kTokens = 10;
  static constexpr int64_t kTableStride = 12;
  static constexpr int64_t kBlocks = 60;

  void Run(const Target& target) {
    TargetRun run(target);
    const KvCacheView kv = {.dtype = keys_.dtype(),
                            .keys = run.Out(keys_).data,
                            .values = run.Out(values_).data,
                            .num_blocks = kBlocks,
                            .block_tokens = shape_.block_tokens,
                            .kv_heads = shape_.kv_heads,
                            .head_size = shape_.head_size};
    const PagedBatch batch = {.query_starts = run.In(starts_),
                              .context_lengths = run.In(contexts_),
                              .block_tables = run.In(table_).data(),
                              .block_table_stride = kTableStride,
                              .table_rows = run.In(table_rows_).data(),
                              .num_decodes = 2};
    RopeAppendKv(run.Out(after_), run.In(cos_sin_), run.In(rope_rows_), batch, kv, run.stream());
    run.Finish();
  }

  static bool IsPadding(int64_t t) { return t == 1; }
  void CheckCacheRow(int64_t row, int64_t token, int64_t head) const {
    Tensor value(values_.dtype(), 1, shape_.head_size);
    for (int64_t d = 0; d < shape_.head_size; ++d) {
      const Expected key = Rotated(token, shape_.q_heads + head, d, keys_.dtype());
      ASSERT_NEAR(keys_.at(row, d), key.value, key.tolerance) << "token " << token << " at " << d;
      value.Set(
          0, d,
          before_.at(token, (shape_.q_heads + shape_.kv_heads + head) * shape_.head_size + d));
    }
    ASSERT_EQ(values_.Bits(row), value.Bits(0)) << "token " << token;
  }

  RopeShape shape_;
  Tensor before_;
  Tensor after_;
  Tensor cos_sin_;
  Tensor keys_;
  Tensor values_;
  std::vector<int32_t> starts_ = {0, 1, 2, 7, 7, 10};
  std::vector<int32_t> contexts_ = {12, 0, 5, 9, 11};
  std::vector<int32_t> rope_rows_ = {11, -1, 0, 1, 2, 3, 4, 8, 9, 63};
  std::vector<int32_t> table_rows_ = {3, 0, 4, 1, 2};
  std::vector<int32_t> table_;
};

TEST_P(RopeAppendKvTest, RotatesQueriesInPlaceAndKeysAndValuesIntoTheCache) {
  for (const RopeShape& shape : {RopeShape{1, 1, 2, 16},
                                 {4, 2, 32, 16},
                                 {3, 3, 64, 4},
                                 {8, 1, 80, 1},
                                 {2, 2, 96, 5},
                                 {32, 8, 128, 16},
                                 {1, 1, 256, 32}}) {
    SCOPED_TRACE(testing::Message()
                 << shape.q_heads << " / " << shape.kv_heads << " heads of " << shape.head_size);
    for (int64_t padding : {8, 3}) {  // aligned rows, and not
      const RopeCall call(GetParam(), shape, padding);
      call.CheckQueries();
      call.CheckCache();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RopeAppendKvTest,
                         testing::Combine(testing::ValuesIn(AllTargets()),
                                          testing::ValuesIn(kAllDTypes),
                                          testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return std::string(NameOf(std::get<0>(info.param))) + "_" +
                                  NameOf(std::get<1>(info.param)) + "_" +
                                  NameOf(std::get<2>(info.param));
                         });

}  // namespace
}  // namespace caravan
