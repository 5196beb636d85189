#include "worker/model/kv_memory.h"

#include <algorithm>
#include <limits>

#include "common/status.h"

namespace caravan {
namespace {

constexpr int32_t kMaxBlockTokens = 1024;

absl::StatusOr<int64_t> CountBlocks(int64_t block_bytes, const KvMemoryOptions& options) {
  if (options.block_tokens < 1 || options.block_tokens > kMaxBlockTokens) {
    return absl::InvalidArgumentError(absl::StrCat("--block_tokens is ", options.block_tokens,
                                                   ", must be in [1, ", kMaxBlockTokens, "]"));
  }
  if (options.num_blocks < 0 || options.kv_cache_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("--kv_cache_bytes is ", options.kv_cache_bytes,
                                                   " and the number of blocks ", options.num_blocks,
                                                   "; neither can be negative"));
  }
  const int64_t blocks =
      options.num_blocks > 0 ? options.num_blocks : options.kv_cache_bytes / block_bytes;
  if (blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv_cache_bytes is ", options.kv_cache_bytes, ", a single block of ",
        options.block_tokens, " tokens takes ", block_bytes, " bytes on this rank: raise it"));
  }
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  return std::min(blocks, kMost);
}

}  // namespace

int64_t KvBlockBytes(const ModelConfig& config, const ShardLayout& layout, int32_t block_tokens,
                     DType dtype) {
  return 2 * SizeOf(dtype) * config.num_layers * layout.kv_heads.count * block_tokens *
         config.head_size;
}

absl::StatusOr<KvMemory> KvMemory::Allocate(const ModelConfig& config, const ShardLayout& layout,
                                            const KvMemoryOptions& options) {
  const int64_t block_bytes =
      KvBlockBytes(config, layout, std::max(options.block_tokens, 1), options.dtype);
  ASSIGN_OR_RETURN(const int64_t blocks, CountBlocks(block_bytes, options));
  if (blocks > std::numeric_limits<int64_t>::max() / block_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(blocks, " KV blocks of ", block_bytes,
                     " bytes are beyond 64 bits: lower --kv_cache_bytes"));
  }
  RETURN_IF_ERROR(
      CheckMemory(options.stream, blocks * block_bytes, "the KV blocks", "lower --kv_cache_bytes"));
  KvMemory memory;
  memory.num_blocks_ = static_cast<int32_t>(blocks);
  memory.block_tokens_ = options.block_tokens;
  const int64_t half_layer_bytes = blocks * (block_bytes / config.num_layers / 2);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    KvCacheView view;
    view.dtype = options.dtype;
    view.num_blocks = blocks;
    view.block_tokens = options.block_tokens;
    view.kv_heads = static_cast<int32_t>(layout.kv_heads.count);
    view.head_size = config.head_size;
    for (void** part : {&view.keys, &view.values}) {
      ASSIGN_OR_RETURN(ModelMemory buffer,
                       ModelMemory::Allocate(options.stream, half_layer_bytes, "KV blocks"));
      *part = buffer.data();
      memory.buffers_.push_back(std::move(buffer));
    }
    memory.layers_.push_back(view);
  }
  return memory;
}

}  // namespace caravan
