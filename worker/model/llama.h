// The forward pass of a LLaMA model on one rank (Touvron et al. 2023, arXiv:2302.13971).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device_stream.h"
#include "kernels/paged_kv.h"
#include "kernels/view.h"
#include "worker/model/collectives.h"
#include "worker/model/kv_memory.h"
#include "worker/model/llama_weights.h"
#include "worker/model/model_config.h"
#include "worker/model/rope_table.h"
#include "worker/model/sharding.h"

namespace caravan {

// What one step runs: every token's id and rope row, and where its keys and values lie.
struct ForwardBatch {
  std::span<const int32_t> token_ids;   // [tokens], ≤ max_batch_tokens
  std::span<const int32_t> rope_rows;   // [tokens], from RopeTable::RowFor
  PagedBatch paged;                     // block ids of KvMemory
  std::span<const int32_t> logit_rows;  // tokens whose logits are wanted, ≤ max_logit_rows
};

struct LoadOptions {
  std::string model_folder;
  std::string load_format = "auto";  // "auto": safetensors; "dummy": random, from config.json alone
  std::string dtype = "auto";        // "auto": the checkpoint's; "float32", "float16", "bfloat16"
  Shard shard;
  int32_t max_context_tokens = 0;  // 0: what the model is made for
  int32_t max_batch_tokens = 2048;
  int32_t max_logit_rows = 256;
  int32_t load_threads = 0;                                               // 0: one a processor
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;  // while weights load
};

// One rank's weights and activation memory. Forward is for one thread at a time.
class LlamaModel {
 public:
  const ModelConfig& config() const { return config_; }
  const ShardLayout& layout() const { return layout_; }
  DType dtype() const { return weights_.dtype; }  // of weights, activations and KV
  int32_t max_context_tokens() const { return max_context_tokens_; }
  int32_t max_batch_tokens() const { return max_batch_tokens_; }
  int32_t max_logit_rows() const { return max_logit_rows_; }
  RopeTable& rope() { return rope_; }
  // Equal where config, dtype and checkpoint are, whatever the sharding: 32 hexadecimal digits.
  const std::string& fingerprint() const { return fingerprint_; }

  // Runs `batch` on all ranks together. On rank 0, float32 logits [logit_rows, padded vocabulary],
  // valid until the next call; empty on the others. Errors are those of `ranks`.
  absl::StatusOr<MatrixView> Forward(const ForwardBatch& batch, const KvMemory& kv,
                                     Collectives& ranks, DeviceStream stream);

  // Layers that the forward pass in progress has behind it. Any thread.
  int32_t layers_done() const { return layers_done_.load(std::memory_order_relaxed); }

 private:
  friend absl::StatusOr<std::unique_ptr<LlamaModel>> LoadLlama(const LoadOptions& options);

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
    MatrixView logits;  // [logit rows, padded vocab], float32, rank 0
  };

  LlamaModel(ModelConfig config, ShardLayout layout, LlamaWeights weights, RopeTable rope);
  absl::Status AllocateActivations();
  Activations ActivationsFor(int64_t tokens, int64_t logit_rows) const;
  void Attention(const LlamaLayer& layer, const KvCacheView& kv, const ForwardBatch& batch,
                 const Activations& a, DeviceStream stream) const;
  void FeedForward(const LlamaLayer& layer, const Activations& a, DeviceStream stream) const;
  absl::StatusOr<MatrixView> Logits(const ForwardBatch& batch, const Activations& a,
                                    Collectives& ranks, DeviceStream stream) const;

  ModelConfig config_;
  ShardLayout layout_;
  LlamaWeights weights_;
  RopeTable rope_;
  std::string fingerprint_;
  int32_t max_context_tokens_ = 0;
  int32_t max_batch_tokens_ = 0;
  int32_t max_logit_rows_ = 0;
  Activations whole_;
  std::vector<HostBuffer> activation_memory_;
  std::atomic<int32_t> layers_done_ = 0;
};

// Reads the folder's config.json and loads this rank's part. Errors name the file, field or flag
// that is wrong.
absl::StatusOr<std::unique_ptr<LlamaModel>> LoadLlama(const LoadOptions& options);

}  // namespace caravan
