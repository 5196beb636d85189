#include "worker/model/llama.h"

#include <cmath>

#include "common/status.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/paged_attention.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_append_kv.h"

namespace caravan {

LlamaModel::LlamaModel(ModelConfig config, ShardLayout layout, DeviceStream stream,
                       LlamaWeights weights, RopeTable rope)
    : config_(std::move(config)),
      layout_(layout),
      stream_(stream),
      weights_(std::move(weights)),
      rope_(std::move(rope)) {}

absl::StatusOr<MatrixView> LlamaModel::Forward(const ForwardBatch& batch, const KvMemory& kv,
                                               Collectives& ranks, DeviceStream stream) {
  const auto tokens = static_cast<int64_t>(batch.token_ids.size());
  const auto logit_rows = static_cast<int64_t>(batch.logit_rows.size());
  CARAVAN_CHECK(tokens >= 1 && tokens <= max_batch_tokens_, tokens, " tokens");
  CARAVAN_CHECK(logit_rows <= max_logit_rows_, logit_rows, " rows of logits");
  CARAVAN_CHECK(ranks.rank() == layout_.shard.rank &&
                ranks.world_size() == layout_.shard.world_size);
  const Activations a = activations_.First(tokens, logit_rows);
  const float eps = config_.rms_norm_eps;
  layers_done_.store(0, std::memory_order_relaxed);

  Embedding(batch.token_ids, weights_.embedding.matrix(), static_cast<int32_t>(layout_.vocab.begin),
            a.residual, stream);
  RETURN_IF_ERROR(ranks.AllReduceSum(a.residual, stream));
  RmsNorm(a.residual, weights_.layers[0].input_norm.vector(), eps, a.normed, stream);
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    const LlamaLayer& layer = weights_.layers[static_cast<size_t>(i)];
    if (i > 0) {
      RETURN_IF_ERROR(ranks.AllReduceAddRmsNorm(
          {a.partial, layer.input_norm.vector(), eps, a.residual, a.normed}, stream));
    }
    Attention(layer, kv.layer(i), batch, a, stream);
    RETURN_IF_ERROR(ranks.AllReduceAddRmsNorm(
        {a.partial, layer.post_norm.vector(), eps, a.residual, a.normed}, stream));
    FeedForward(layer, a, stream);
    layers_done_.store(i + 1, std::memory_order_relaxed);
    all_layers_done_.fetch_add(1, std::memory_order_relaxed);
  }
  return Logits(batch, a, ranks, stream);
}

// partial = this rank's heads' share of o(attention(qkv(normed))).
void LlamaModel::Attention(const LlamaLayer& layer, const KvCacheView& kv,
                           const ForwardBatch& batch, const Activations& a,
                           DeviceStream stream) const {
  const float scale = 1 / std::sqrt(static_cast<float>(config_.head_size));
  Matmul(a.normed, layer.qkv.linear(), layer.qkv_bias.vector(), a.qkv, stream);
  RopeAppendKv(a.qkv, rope_.view(), batch.rope_rows, batch.paged, kv, stream);
  PagedAttention(a.qkv.Columns(0, a.attention.cols), kv, batch.paged, scale, a.attention, stream);
  Matmul(a.attention, layer.o.linear(), layer.o_bias.vector(), a.partial, stream);
}

// partial = this rank's share of down(silu(gate(normed)) · up(normed)).
void LlamaModel::FeedForward(const LlamaLayer& layer, const Activations& a,
                             DeviceStream stream) const {
  MatmulSwiGlu({.x = a.normed,
                .weight = layer.gate_up.linear(),
                .bias = layer.gate_up_bias.vector(),
                .gate_up = a.gate_up,
                .out = a.activated},
               stream);
  Matmul(a.activated, layer.down.linear(), layer.down_bias.vector(), a.partial, stream);
}

// Of the last layer's output only the rows whose logits are wanted are summed.
absl::StatusOr<MatrixView> LlamaModel::Logits(const ForwardBatch& batch, const Activations& a,
                                              Collectives& ranks, DeviceStream stream) const {
  if (batch.logit_rows.empty()) return MatrixView{};
  MatrixView residual = a.residual;
  MatrixView partial = a.partial;
  if (a.last_residual.rows != residual.rows) {  // else all rows are wanted
    GatherRows(residual, batch.logit_rows, a.last_residual, stream);
    GatherRows(partial, batch.logit_rows, a.last_partial, stream);
    residual = a.last_residual;
    partial = a.last_partial;
  }
  RETURN_IF_ERROR(ranks.AllReduceAddRmsNorm(
      {partial, weights_.final_norm.vector(), config_.rms_norm_eps, residual, a.last_normed},
      stream));
  Matmul(a.last_normed, weights_.LmHead(), {}, a.logit_shard, stream);
  if (ranks.world_size() == 1) return a.logit_shard;
  const bool gets = ranks.rank() == 0 || ranks.gathers_on_all_ranks();
  const MatrixView logits = gets ? a.logits : MatrixView{};
  RETURN_IF_ERROR(ranks.GatherColumns(a.logit_shard, logits, stream));
  return logits;
}

}  // namespace caravan
