// The forward pass of a LLaMA model on one rank (Touvron et al. 2023, arXiv:2302.13971).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device_stream.h"
#include "kernels/paged_kv.h"
#include "kernels/view.h"
#include "worker/model/activations.h"
#include "worker/model/collectives.h"
#include "worker/model/kv_memory.h"
#include "worker/model/llama_weights.h"
#include "worker/model/model_config.h"
#include "worker/model/rope_table.h"
#include "worker/model/sharding.h"

namespace caravan {

// What one step runs: every token's id and rope row, and where its keys and values lie. All arrays
// are in memory of the stream's device.
struct ForwardBatch {
  std::span<const int32_t> token_ids;   // [tokens], ≤ max_batch_tokens
  std::span<const int32_t> rope_rows;   // [tokens], from RopeTable::RowFor
  PagedBatch paged;                     // block ids of KvMemory
  std::span<const int32_t> logit_rows;  // tokens whose logits are wanted, ascending, each once,
                                        // ≤ max_logit_rows
};

struct LlamaSource;  // loading/load_llama.h
struct LoadOptions;

// One rank's weights and activation memory. Forward is for one thread at a time.
class LlamaModel {
 public:
  const ModelConfig& config() const { return config_; }
  const ShardLayout& layout() const { return layout_; }
  DeviceStream stream() const { return stream_; }  // on whose device it lies
  DType dtype() const { return weights_.dtype; }   // of weights, activations and KV
  int32_t max_context_tokens() const { return max_context_tokens_; }
  int32_t max_batch_tokens() const { return max_batch_tokens_; }
  int32_t max_logit_rows() const { return max_logit_rows_; }
  RopeTable& rope() { return rope_; }
  // Equal where config, dtype and checkpoint are, whatever the sharding: 32 hexadecimal digits.
  const std::string& fingerprint() const { return fingerprint_; }

  // Runs `batch` on all ranks together; `stream` is the model's. Float32 logits [logit_rows, padded
  // vocabulary], valid until the next call, on rank 0, and on the others where
  // ranks.gathers_on_all_ranks(); else empty. Errors are those of `ranks`.
  absl::StatusOr<MatrixView> Forward(const ForwardBatch& batch, const KvMemory& kv,
                                     Collectives& ranks, DeviceStream stream);

  // Layers that the forward pass in progress has behind it. Any thread.
  int32_t layers_done() const { return layers_done_.load(std::memory_order_relaxed); }
  // Of all forward passes together.
  uint64_t all_layers_done() const { return all_layers_done_.load(std::memory_order_relaxed); }

 private:
  friend absl::StatusOr<std::unique_ptr<LlamaModel>> LoadLlama(LlamaSource source,
                                                               const LoadOptions& options);

  LlamaModel(ModelConfig config, ShardLayout layout, DeviceStream stream, LlamaWeights weights,
             RopeTable rope);
  void Attention(const LlamaLayer& layer, const KvCacheView& kv, const ForwardBatch& batch,
                 const Activations& a, DeviceStream stream) const;
  void FeedForward(const LlamaLayer& layer, const Activations& a, DeviceStream stream) const;
  absl::StatusOr<MatrixView> Logits(const ForwardBatch& batch, const Activations& a,
                                    Collectives& ranks, DeviceStream stream) const;

  ModelConfig config_;
  ShardLayout layout_;
  DeviceStream stream_;
  LlamaWeights weights_;
  RopeTable rope_;
  std::string fingerprint_;
  int32_t max_context_tokens_ = 0;
  int32_t max_batch_tokens_ = 0;
  int32_t max_logit_rows_ = 0;
  ActivationMemory activations_;
  std::atomic<int32_t> layers_done_ = 0;
  std::atomic<uint64_t> all_layers_done_ = 0;
};

}  // namespace caravan
