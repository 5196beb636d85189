// Memory of a forward pass, taken once for the largest step.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device_stream.h"
#include "kernels/view.h"
#include "worker/model/model_config.h"
#include "worker/model/model_memory.h"
#include "worker/model/sharding.h"

namespace caravan {

struct Activations {
  MatrixView residual;   // [tokens, hidden], model dtype
  MatrixView normed;     // [tokens, hidden], model dtype
  MatrixView qkv;        // [tokens, (q + 2 kv) · head_size], model dtype
  MatrixView attention;  // [tokens, q · head_size], model dtype
  MatrixView partial;    // [tokens, hidden], float32: a row-parallel layer's output
  MatrixView gate_up;    // [tokens, 2 · intermediate], model dtype
  MatrixView activated;  // [tokens, intermediate], model dtype
  MatrixView last_residual, last_partial, last_normed;  // of the rows whose logits are wanted
  MatrixView logit_shard;                               // [logit rows, vocab shard], float32
  MatrixView logits;  // [logit rows, padded vocab], float32: where the ranks' shards are gathered
};

struct ActivationOptions {
  int64_t max_tokens = 0;
  int64_t max_logit_rows = 0;
  DType dtype = DType::kFloat32;
  DeviceStream stream = DeviceStream::Cpu();
};

class ActivationMemory {
 public:
  static int64_t Bytes(const ModelConfig& config, const ShardLayout& layout,
                       const ActivationOptions& options);

  // RESOURCE_EXHAUSTED with what is needed and which flag to change.
  static absl::StatusOr<ActivationMemory> Allocate(const ModelConfig& config,
                                                   const ShardLayout& layout,
                                                   const ActivationOptions& options);

  // The first `tokens` rows, and `logit_rows` of those that stand for rows with logits.
  Activations First(int64_t tokens, int64_t logit_rows) const;

 private:
  Activations whole_;
  ModelMemory memory_;
};

}  // namespace caravan
