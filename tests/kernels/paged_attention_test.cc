#include "kernels/paged_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "tests/kernels/op_fixture.h"

namespace caravan {
namespace {

struct AttentionShape {
  int32_t q_heads;
  int32_t kv_heads;
  int32_t head_size;
  int32_t block_tokens;

  int64_t columns() const { return int64_t{q_heads} * head_size; }
};

// Sequences whose keys and values lie in shuffled blocks, the rest of the memory poisoned.
class PagedSequences {
 public:
  PagedSequences(DType dtype, const AttentionShape& shape, std::vector<int32_t> lengths)
      : dtype_(dtype), shape_(shape), lengths_(std::move(lengths)) {
    stride_ = 1;
    for (int32_t length : lengths_) stride_ = std::max<int64_t>(stride_, Blocks(length));
    std::vector<int32_t> order(static_cast<size_t>(stride_) * lengths_.size() + 3);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 generator(9);
    std::shuffle(order.begin(), order.end(), generator);
    table_.assign(order.begin(), order.end() - 3);
    const int64_t rows = static_cast<int64_t>(order.size()) * shape.kv_heads * shape.block_tokens;
    keys_ = std::make_unique<Tensor>(dtype, rows, shape.head_size);
    values_ = std::make_unique<Tensor>(dtype, rows, shape.head_size);
    FillPositions();
  }

  KvCacheView kv() const {
    return {.dtype = dtype_,
            .keys = keys_->view().data,
            .values = values_->view().data,
            .num_blocks = static_cast<int64_t>(table_.size()) + 3,
            .block_tokens = shape_.block_tokens,
            .kv_heads = shape_.kv_heads,
            .head_size = shape_.head_size};
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(shape_.head_size)); }
  // Row of keys() and values() that holds a position.
  int64_t RowOf(size_t s, int64_t position, int64_t head) const {
    const int64_t block = table_[s * static_cast<size_t>(stride_) +
                                 static_cast<size_t>(position / shape_.block_tokens)];
    return (block * shape_.kv_heads + head) * shape_.block_tokens + position % shape_.block_tokens;
  }

  // Attention of query rows that belong to positions [first, first + count) of sequence s, for
  // each listed part, as one batch.
  struct Part {
    size_t s = 0;
    int32_t first = 0;
    int32_t count = 0;
  };
  void Run(const std::vector<Part>& parts, const Tensor& q, Tensor* out) const {
    std::vector<int32_t> starts = {0};
    std::vector<int32_t> contexts;
    std::vector<int32_t> table;
    for (const Part& part : parts) {
      starts.push_back(starts.back() + part.count);
      contexts.push_back(part.first + part.count);
      const auto row = table_.begin() + static_cast<int64_t>(part.s) * stride_;
      table.insert(table.end(), row, row + stride_);
    }
    PagedAttention(q.view(), kv(), {starts, contexts, table.data(), stride_},
                   static_cast<float>(scale()), out->view(), DeviceStream::Cpu());
  }

  const Tensor& keys() const { return *keys_; }
  const Tensor& values() const { return *values_; }
  const AttentionShape& shape() const { return shape_; }

 private:
  int64_t Blocks(int32_t length) const {
    return (length + shape_.block_tokens - 1) / shape_.block_tokens;
  }
  void FillPositions() {
    std::mt19937_64 generator(10);
    std::normal_distribution<double> normal;
    for (size_t s = 0; s < lengths_.size(); ++s) {
      for (int64_t p = 0; p < lengths_[s]; ++p) {
        for (int64_t g = 0; g < shape_.kv_heads; ++g) {
          for (int64_t d = 0; d < shape_.head_size; ++d) {
            keys_->Set(RowOf(s, p, g), d, normal(generator));
            values_->Set(RowOf(s, p, g), d, normal(generator));
          }
        }
      }
    }
  }

  DType dtype_;
  AttentionShape shape_;
  std::vector<int32_t> lengths_;
  int64_t stride_ = 0;
  std::vector<int32_t> table_;
  std::unique_ptr<Tensor> keys_;
  std::unique_ptr<Tensor> values_;
};

// One head of one query in float64, with the bound of the float32 computation for each element.
// Scores are dot products of head_size terms, so within (2 · head_size / 16 + 8) · u · scale · |q|
// |k|; an error δ of the scores changes each weight by a factor of at most e^(2 δ). Weighted sums
// add (2 · positions + 16) · u times Σ w |v| for roundings and corrections.
struct HeadReference {
  std::vector<double> value;
  std::vector<double> tolerance;
};
HeadReference Reference(const PagedSequences& sequences, const PagedSequences::Part& part,
                        int64_t token, int64_t head, const std::vector<double>& q) {
  const AttentionShape& shape = sequences.shape();
  const int64_t size = shape.head_size;
  const int64_t positions = part.first + token + 1;
  const int64_t group = head / (shape.q_heads / shape.kv_heads);
  const double u = UnitRoundoff(DType::kFloat32);
  std::vector<double> scores;
  double score_error = 0;
  for (int64_t p = 0; p < positions; ++p) {
    double dot = 0;
    double norm = 0;
    for (int64_t d = 0; d < size; ++d) {
      const double term =
          q[head * size + d] * sequences.keys().at(sequences.RowOf(part.s, p, group), d);
      dot += term;
      norm += std::fabs(term);
    }
    scores.push_back(dot * sequences.scale());
    score_error = std::max(score_error, (2.0 * size / 16 + 8) * u * norm * sequences.scale());
  }
  const double greatest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - greatest);
  HeadReference result;
  for (int64_t d = 0; d < size; ++d) {
    double value = 0;
    double norm = 0;
    for (int64_t p = 0; p < positions; ++p) {
      const double v = sequences.values().at(sequences.RowOf(part.s, p, group), d);
      value += scores[p] / sum * v;
      norm += scores[p] / sum * std::fabs(v);
    }
    result.value.push_back(value);
    result.tolerance.push_back((2 * score_error + (2.0 * positions + 16) * u) * norm);
  }
  return result;
}

struct AttentionCase {
  CpuIsa isa;
  DType activations;
  DType kv;
};
class PagedAttentionTest : public testing::TestWithParam<AttentionCase> {
 protected:
  ScopedIsa isa_{GetParam().isa};
};

void CheckAttention(const AttentionCase& types, const AttentionShape& shape,
                    const std::vector<PagedSequences::Part>& parts) {
  SCOPED_TRACE(testing::Message() << shape.q_heads << " / " << shape.kv_heads << " heads of "
                                  << shape.head_size << ", blocks of " << shape.block_tokens);
  std::vector<int32_t> lengths(parts.size());
  int64_t rows = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    lengths[parts[i].s] = parts[i].first + parts[i].count;
    rows += parts[i].count;
  }
  const PagedSequences sequences(types.kv, shape, lengths);
  const Tensor q = Tensor::Random(types.activations, rows, shape.columns(), 3, 2);
  Tensor out(types.activations, rows, shape.columns(), 7);
  sequences.Run(parts, q, &out);
  std::vector<std::vector<HeadReference>> references;
  int64_t row = 0;
  for (const auto& part : parts) {
    for (int64_t token = 0; token < part.count; ++token, ++row) {
      references.emplace_back();
      for (int64_t h = 0; h < shape.q_heads; ++h) {
        references.back().push_back(Reference(sequences, part, token, h, q.Row(row)));
      }
    }
  }
  EXPECT_TRUE(IsClose(out, [&](int64_t r, int64_t c) {
    const HeadReference& head = references[r][c / shape.head_size];
    const double value = head.value[c % shape.head_size];
    return Expected{value, head.tolerance[c % shape.head_size] +
                               1.01 * UnitRoundoff(types.activations) * std::fabs(value) +
                               SmallestStep(types.activations)};
  }));
}

TEST_P(PagedAttentionTest, AgreesWithFloat64ForEveryHeadSize) {
  for (int32_t size : {32, 64, 80, 96, 128, 256}) {
    CheckAttention(GetParam(), {4, 2, size, 16}, {{0, 0, 1}, {1, 40, 1}, {2, 0, 0}, {3, 30, 5}});
  }
}

TEST_P(PagedAttentionTest, AgreesWithFloat64ForEveryGrouping) {
  for (auto [q_heads, kv_heads] : {std::pair{1, 1}, {3, 3}, {4, 1}, {6, 2}, {8, 1}}) {
    CheckAttention(GetParam(), {q_heads, kv_heads, 32, 16}, {{0, 0, 33}, {1, 31, 32}});
  }
}

TEST_P(PagedAttentionTest, AgreesWithFloat64ForEveryBlockSize) {
  for (int32_t block : {1, 8, 24, 32, 64, 100}) {
    CheckAttention(GetParam(), {2, 1, 64, block}, {{0, 0, 1}, {1, 127, 3}, {2, 0, 70}});
  }
}

// The bits of each token: in one chunk, in chunks of other sizes, alone, in a batch with others.
TEST_P(PagedAttentionTest, BitsDependNeitherOnChunksNorOnTheBatch) {
  const AttentionShape shape = {6, 2, 48, 16};
  const int32_t length = 130;
  const PagedSequences sequences(GetParam().kv, shape, {length, 57});
  Tensor q = Tensor::Random(GetParam().activations, length, shape.columns(), 4);
  Tensor whole(GetParam().activations, length, shape.columns());
  sequences.Run({{0, 0, length}}, q, &whole);
  const Tensor other = Tensor::Random(GetParam().activations, 64, shape.columns(), 5);
  for (int32_t chunk : {1, 2, 3, 7, 64}) {
    ScopedThreads threads(chunk % 3 + 1);
    for (int32_t first = 0; first < length; first += chunk) {
      const int32_t count = std::min(chunk, length - first);
      const int32_t before = chunk % 2 == 0 ? 5 : 0;  // rows of another sequence in front
      Tensor batch(GetParam().activations, before + count, shape.columns());
      for (int64_t r = 0; r < before + count; ++r) {
        for (int64_t c = 0; c < batch.cols(); ++c) {
          batch.Set(r, c, r < before ? other.at(r, c) : q.at(first + r - before, c));
        }
      }
      Tensor out(GetParam().activations, before + count, shape.columns());
      sequences.Run({{1, 57 - before, before}, {0, first, count}}, batch, &out);
      for (int64_t r = 0; r < count; ++r) {
        ASSERT_EQ(out.Bits(before + r), whole.Bits(first + r))
            << "position " << first + r << ", chunks of " << chunk;
      }
    }
  }
}

std::vector<AttentionCase> AllCases() {
  std::vector<AttentionCase> cases;
  for (CpuIsa isa : RunnableIsas()) {
    for (DType dtype : kAllDTypes) cases.push_back({isa, dtype, dtype});
    cases.push_back({isa, DType::kBFloat16, DType::kFloat32});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Cpu, PagedAttentionTest, testing::ValuesIn(AllCases()),
                         [](const auto& info) {
                           return std::string(NameOf(info.param.isa)) + "_" +
                                  NameOf(info.param.activations) + "_" + NameOf(info.param.kv);
                         });

TEST(CopyKvBlocks, CopiesInOrderAndLeavesTheRestAlone) {
  const PagedSequences sequences(DType::kFloat16, {2, 2, 32, 8}, {64});
  const int64_t rows = 16;  // 2 KV heads of 8 positions
  const auto block_bits = [&](const Tensor& memory, int64_t block) {
    std::string bits;
    for (int64_t r = 0; r < rows; ++r) bits += memory.Bits(block * rows + r);
    return bits;
  };
  std::vector<std::string> keys;
  std::vector<std::string> values;
  for (int64_t b = 0; b < sequences.kv().num_blocks; ++b) {
    keys.push_back(block_bits(sequences.keys(), b));
    values.push_back(block_bits(sequences.values(), b));
  }
  const BlockCopy copies[] = {{1, 4}, {4, 2}, {3, 3}, {5, 1}};
  CopyKvBlocks(sequences.kv(), copies, DeviceStream::Cpu());
  const std::vector<size_t> source = {0, 5, 1, 3, 1};
  for (size_t b = 0; b < keys.size(); ++b) {
    const size_t from = b < source.size() ? source[b] : b;
    EXPECT_EQ(block_bits(sequences.keys(), static_cast<int64_t>(b)), keys[from]) << b;
    EXPECT_EQ(block_bits(sequences.values(), static_cast<int64_t>(b)), values[from]) << b;
  }
}

}  // namespace
}  // namespace caravan
