// Sequences in paged KV for the tests of attention: shuffled blocks, everything unused poisoned.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/paged_kv.h"
#include "tests/kernels/op_fixture.h"
#include "tests/kernels/target_fixture.h"

namespace caravan {

struct AttentionShape {
  int32_t q_heads;
  int32_t kv_heads;
  int32_t head_size;
  int32_t block_tokens;

  int64_t columns() const { return int64_t{q_heads} * head_size; }
};

// Queries of the positions [first, first + count) of sequence s. A count of 0 with `first` 0 is
// padding: one query row of a sequence that is not there.
struct QueryPart {
  size_t s = 0;
  int32_t first = 0;
  int32_t count = 0;

  int32_t context() const { return first + count; }
};

// A target, and there one of its ways: on a GPU the one for all GPUs in place of the best.
struct AttentionTarget {
  Target target;
  bool portable = false;
};

// Sequences whose keys and values are standard normal and lie in shuffled blocks. The rest of the
// memory is NaN, the rest of the block table points far outside.
class PagedSequences {
 public:
  PagedSequences(DType dtype, const AttentionShape& shape, std::vector<int32_t> lengths);

  // Attention for the parts as one batch, the first `num_decodes` of which are decoding. Rows of
  // `q` and `out` beyond those of the parts belong to no sequence.
  void Run(const AttentionTarget& on, const std::vector<QueryPart>& parts, int32_t num_decodes,
           const Tensor& q, Tensor* out) const;

  // One head of the query at `position` of sequence s in float64, with the bound of its error.
  struct Head {
    std::vector<double> value;
    std::vector<double> tolerance;
  };
  Head Reference(const AttentionTarget& on, size_t s, int64_t position, int64_t head,
                 const std::vector<double>& q) const;

  KvCacheView kv() const;
  const Tensor& keys() const { return keys_; }
  const Tensor& values() const { return values_; }
  double scale() const;

 private:
  int64_t BlocksOf(size_t s) const {
    return (lengths_[s] + shape_.block_tokens - 1) / shape_.block_tokens;
  }
  // Row of keys() and values() that holds a position.
  int64_t RowOf(size_t s, int64_t position, int64_t kv_head) const;
  // The same as a row of key_copies_ and value_copies_.
  const double* CopyOf(const std::vector<double>& copies, size_t s, int64_t position,
                       int64_t kv_head) const;
  void MakeTable();
  void FillPositions();

  DType dtype_;
  AttentionShape shape_;
  std::vector<int32_t> lengths_;
  int64_t table_stride_ = 1;
  std::vector<int32_t> table_;
  int64_t num_blocks_ = 0;
  Tensor keys_;
  Tensor values_;
  std::vector<int64_t> first_copies_;  // of each sequence
  std::vector<double> key_copies_;     // rounded to dtype_, [position, KV head, head_size]
  std::vector<double> value_copies_;
};

}  // namespace caravan
