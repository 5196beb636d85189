// The paged key-value memory of one rank: all layers' blocks, allocated at start.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/paged_kv.h"
#include "worker/model/model_config.h"
#include "worker/model/model_memory.h"
#include "worker/model/sharding.h"

namespace caravan {

struct KvMemoryOptions {
  int32_t block_tokens = 16;
  int32_t num_blocks = 0;      // 0: as many as kv_cache_bytes hold
  int64_t kv_cache_bytes = 0;  // of this rank; used where num_blocks is 0
  DType dtype = DType::kFloat32;
  DeviceStream stream = DeviceStream::Cpu();
};

// Bytes that one block takes on one rank, keys and values of all layers.
int64_t KvBlockBytes(const ModelConfig& config, const ShardLayout& layout, int32_t block_tokens,
                     DType dtype);

class KvMemory {
 public:
  // INVALID_ARGUMENT where not one block fits or the count is absurd, RESOURCE_EXHAUSTED where the
  // memory is not there; both say what is needed and which flag to change.
  static absl::StatusOr<KvMemory> Allocate(const ModelConfig& config, const ShardLayout& layout,
                                           const KvMemoryOptions& options);

  int32_t num_blocks() const { return num_blocks_; }
  int32_t block_tokens() const { return block_tokens_; }
  const KvCacheView& layer(int32_t index) const { return layers_[static_cast<size_t>(index)]; }

 private:
  int32_t num_blocks_ = 0;
  int32_t block_tokens_ = 0;
  std::vector<ModelMemory> buffers_;
  std::vector<KvCacheView> layers_;
};

}  // namespace caravan
