// Which part of the model a rank holds (tensor parallelism: Shoeybi et al. 2019, arXiv:1909.08053).
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/model/model_config.h"

namespace caravan {

// A rank's coordinate: today always (pipeline 0, tensor rank, expert 0).
struct Shard {
  int32_t rank = 0;
  int32_t world_size = 1;
};

// [begin, begin + count) of something.
struct Slice {
  int64_t begin = 0;
  int64_t count = 0;
};

// The slices of one rank. qkv, gate and up are split by output (head, intermediate), o and down by
// input, embedding and lm head by vocabulary, which is padded to a multiple of the world size. KV
// heads are replicated where the world is larger than their number.
struct ShardLayout {
  Shard shard;
  Slice q_heads;
  Slice kv_heads;
  Slice intermediate;
  Slice vocab;               // of the padded vocabulary
  int64_t padded_vocab = 0;  // vocab.count · world_size
};

// INVALID_ARGUMENT, naming the field and the number that does not divide.
absl::StatusOr<ShardLayout> MakeShardLayout(const ModelConfig& config, Shard shard);

}  // namespace caravan
