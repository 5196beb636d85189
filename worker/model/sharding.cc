#include "worker/model/sharding.h"

#include "common/status.h"

namespace caravan {
namespace {

absl::Status CheckDivides(const char* field, int64_t value, int64_t world) {
  if (value % world == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor parallel degree ", world, " does not divide the model's ", field, ", ", value));
}

}  // namespace

absl::StatusOr<ShardLayout> MakeShardLayout(const ModelConfig& config, Shard shard) {
  const int64_t world = shard.world_size;
  if (world < 1 || shard.rank < 0 || shard.rank >= world) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", shard.rank, " of ", world, " is not a rank: 0 <= rank < world size"));
  }
  RETURN_IF_ERROR(CheckDivides("num_attention_heads", config.num_heads, world));
  RETURN_IF_ERROR(CheckDivides("intermediate_size", config.intermediate_size, world));
  const int64_t kv_heads = config.num_kv_heads;
  if (kv_heads % world != 0 && world % kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallel degree ", world,
                                                   " neither divides num_key_value_heads, ",
                                                   kv_heads, ", nor is a multiple of it"));
  }
  ShardLayout layout;
  layout.shard = shard;
  layout.q_heads.count = config.num_heads / world;
  layout.q_heads.begin = shard.rank * layout.q_heads.count;
  layout.kv_heads.count = world <= kv_heads ? kv_heads / world : 1;
  layout.kv_heads.begin = shard.rank * kv_heads / world;
  layout.intermediate.count = config.intermediate_size / world;
  layout.intermediate.begin = shard.rank * layout.intermediate.count;
  layout.vocab.count = (config.vocab_size + world - 1) / world;
  layout.vocab.begin = shard.rank * layout.vocab.count;
  layout.padded_vocab = layout.vocab.count * world;
  return layout;
}

}  // namespace caravan
