#include "tests/kernels/paged_fixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/device/attention/paths.h"
#include "kernels/paged_attention.h"

namespace caravan {
namespace {

constexpr int32_t kSpareBlocks = 3;

struct AttentionCall {
  ConstMatrixView q;
  const KvCacheView& kv;
  const PagedBatch& batch;
  float scale;
  MatrixView out;
};

void Attend(const AttentionTarget& on, const AttentionCall& call, DeviceStream stream) {
#ifdef CARAVAN_HAS_CUDA
  if (on.portable) {
    cuda::PagedAttentionBy(cuda::AttentionPath::kPortable, call.q, call.kv, call.batch, call.scale,
                           call.out, stream.cuda());
    return;
  }
#endif
  PagedAttention(call.q, call.kv, call.batch, call.scale, call.out, stream);
}

int64_t CountBlocks(const AttentionShape& shape, const std::vector<int32_t>& lengths) {
  int64_t blocks = kSpareBlocks;
  for (int32_t length : lengths) blocks += (length + shape.block_tokens - 1) / shape.block_tokens;
  return blocks;
}

}  // namespace

PagedSequences::PagedSequences(DType dtype, const AttentionShape& shape,
                               std::vector<int32_t> lengths)
    : dtype_(dtype),
      shape_(shape),
      lengths_(std::move(lengths)),
      num_blocks_(CountBlocks(shape, lengths_)),
      keys_(dtype, num_blocks_ * shape.kv_heads * shape.block_tokens, shape.head_size),
      values_(keys_) {
  MakeTable();
  FillPositions();
}

void PagedSequences::MakeTable() {
  std::vector<int32_t> order(static_cast<size_t>(num_blocks_));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 generator(9);
  std::shuffle(order.begin(), order.end(), generator);
  for (size_t s = 0; s < lengths_.size(); ++s) {
    table_stride_ = std::max(table_stride_, BlocksOf(s) + 1);
  }
  table_.assign(static_cast<size_t>(table_stride_) * lengths_.size(), 0x7ffffff);
  size_t used = 0;
  for (size_t s = 0; s < lengths_.size(); ++s) {
    for (int64_t b = 0; b < BlocksOf(s); ++b) {
      table_[s * static_cast<size_t>(table_stride_) + static_cast<size_t>(b)] = order[used++];
    }
  }
}

void PagedSequences::FillPositions() {
  std::mt19937_64 generator(10);
  std::normal_distribution<double> normal;
  for (size_t s = 0; s < lengths_.size(); ++s) {
    first_copies_.push_back(static_cast<int64_t>(key_copies_.size()));
    for (int64_t p = 0; p < lengths_[s]; ++p) {
      for (int64_t g = 0; g < shape_.kv_heads; ++g) {
        const int64_t row = RowOf(s, p, g);
        for (int64_t d = 0; d < shape_.head_size; ++d) {
          keys_.Set(row, d, normal(generator));
          values_.Set(row, d, normal(generator));
          key_copies_.push_back(keys_.at(row, d));
          value_copies_.push_back(values_.at(row, d));
        }
      }
    }
  }
}

KvCacheView PagedSequences::kv() const {
  return {.dtype = dtype_,
          .keys = const_cast<void*>(keys_.view().data),
          .values = const_cast<void*>(values_.view().data),
          .num_blocks = num_blocks_,
          .block_tokens = shape_.block_tokens,
          .kv_heads = shape_.kv_heads,
          .head_size = shape_.head_size};
}

double PagedSequences::scale() const {
  return 1 / std::sqrt(static_cast<double>(shape_.head_size));
}

int64_t PagedSequences::RowOf(size_t s, int64_t position, int64_t kv_head) const {
  const int64_t block = table_[s * static_cast<size_t>(table_stride_) +
                               static_cast<size_t>(position / shape_.block_tokens)];
  return (block * shape_.kv_heads + kv_head) * shape_.block_tokens + position % shape_.block_tokens;
}

const double* PagedSequences::CopyOf(const std::vector<double>& copies, size_t s, int64_t position,
                                     int64_t kv_head) const {
  return copies.data() + first_copies_[s] +
         (position * shape_.kv_heads + kv_head) * shape_.head_size;
}

void PagedSequences::Run(const AttentionTarget& on, const std::vector<QueryPart>& parts,
                         int32_t num_decodes, const Tensor& q, Tensor* out) const {
  std::vector<int32_t> starts = {0};
  std::vector<int32_t> contexts;
  std::vector<int32_t> table_rows;
  for (const QueryPart& part : parts) {
    starts.push_back(starts.back() + std::max(part.count, part.context() == 0 ? 1 : 0));
    contexts.push_back(part.context());
    table_rows.push_back(static_cast<int32_t>(part.s));
  }
  TargetRun run(on.target);
  KvCacheView kv = this->kv();
  kv.keys = const_cast<void*>(run.In(keys_).data);
  kv.values = const_cast<void*>(run.In(values_).data);
  const PagedBatch batch = {.query_starts = run.In(starts),
                            .context_lengths = run.In(contexts),
                            .block_tables = run.In(table_).data(),
                            .block_table_stride = table_stride_,
                            .table_rows = run.In(table_rows).data(),
                            .num_decodes = num_decodes};
  Attend(on, {run.In(q), kv, batch, static_cast<float>(scale()), run.Out(*out)}, run.stream());
  run.Finish();
}

// Scores are sums of head_size terms: a chain of n additions is within n · u of Σ |terms|, and so
// is a tensor core's, which cuts off the 17 terms of each step at a quarter of the greatest one's
// last place or below (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores"). The CPU has
// 16 chains. Scaling, the exponent's difference and the exponential itself add less than 8 u. An
// error δ of the scores changes each weight by a factor of at most e^(2 δ). Weighted sums add
// (2 · positions + 16) · u times Σ w |v| for roundings and corrections.
//
// On tensor cores weights, at most 1, are rounded to the dtype of the cache: a unit roundoff of
// each, or half a smallest step, against a sum of weights of at least 1.
PagedSequences::Head PagedSequences::Reference(const AttentionTarget& on, size_t s,
                                               int64_t position, int64_t head,
                                               const std::vector<double>& q) const {
  const int64_t size = shape_.head_size;
  const int64_t kv_head = head / (shape_.q_heads / shape_.kv_heads);
  const int64_t positions = position + 1;
  const bool cuda = on.target.device == Device::kCuda;
  const double u = UnitRoundoff(DType::kFloat32);
  const double terms = cuda ? static_cast<double>(size) : 2.0 * static_cast<double>(size) / 16;
  std::vector<double> weights;
  double score_error = 0;
  for (int64_t p = 0; p < positions; ++p) {
    const double* key = CopyOf(key_copies_, s, p, kv_head);
    double dot = 0;
    double norm = 0;
    for (int64_t d = 0; d < size; ++d) {
      const double term = q[static_cast<size_t>(head * size + d)] * key[d];
      dot += term;
      norm += std::fabs(term);
    }
    weights.push_back(dot * scale());
    score_error = std::max(score_error, (terms + 8) * u * norm * scale());
  }
  const double greatest = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - greatest);
  Head result{std::vector<double>(static_cast<size_t>(size)),
              std::vector<double>(static_cast<size_t>(size))};
  const bool rounded = cuda && dtype_ != DType::kFloat32;
  const double relative = 2 * score_error + (2.0 * static_cast<double>(positions) + 16) * u +
                          (rounded ? 1.01 * UnitRoundoff(dtype_) : 0);
  const double absolute = rounded ? SmallestStep(dtype_) / 2 : 0;
  for (int64_t p = 0; p < positions; ++p) {
    const double weight = weights[static_cast<size_t>(p)] / sum;
    const double* value = CopyOf(value_copies_, s, p, kv_head);
    for (size_t d = 0; d < static_cast<size_t>(size); ++d) {
      result.value[d] += weight * value[d];
      result.tolerance[d] += (relative * weight + absolute) * std::fabs(value[d]);
    }
  }
  return result;
}

}  // namespace caravan
