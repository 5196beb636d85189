#include "worker/model/llama.h"

#include <cmath>

#include "common/status.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/paged_attention.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_append_kv.h"
#include "kernels/swiglu.h"

namespace caravan {

LlamaModel::LlamaModel(ModelConfig config, ShardLayout layout, LlamaWeights weights, RopeTable rope)
    : config_(std::move(config)),
      layout_(layout),
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
  const Activations a = ActivationsFor(tokens, logit_rows);
  const float eps = config_.rms_norm_eps;
  layers_done_.store(0, std::memory_order_relaxed);

  Embedding(batch.token_ids, weights_.embedding.matrix(), static_cast<int32_t>(layout_.vocab.begin),
            a.residual, stream);
  RETURN_IF_ERROR(ranks.AllReduceSum(a.residual, stream));
  RmsNorm(a.residual, weights_.layers[0].input_norm.vector(), eps, a.normed, stream);
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    const LlamaLayer& layer = weights_.layers[static_cast<size_t>(i)];
    if (i > 0) AddRmsNorm(a.partial, layer.input_norm.vector(), eps, a.residual, a.normed, stream);
    Attention(layer, kv.layer(i), batch, a, stream);
    RETURN_IF_ERROR(ranks.AllReduceSum(a.partial, stream));
    AddRmsNorm(a.partial, layer.post_norm.vector(), eps, a.residual, a.normed, stream);
    FeedForward(layer, a, stream);
    RETURN_IF_ERROR(ranks.AllReduceSum(a.partial, stream));
    layers_done_.store(i + 1, std::memory_order_relaxed);
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
  Matmul(a.normed, layer.gate_up.linear(), layer.gate_up_bias.vector(), a.gate_up, stream);
  SwiGlu(a.gate_up, a.activated, stream);
  Matmul(a.activated, layer.down.linear(), layer.down_bias.vector(), a.partial, stream);
}

absl::StatusOr<MatrixView> LlamaModel::Logits(const ForwardBatch& batch, const Activations& a,
                                              Collectives& ranks, DeviceStream stream) const {
  if (batch.logit_rows.empty()) return MatrixView{};
  GatherRows(a.residual, batch.logit_rows, a.last_residual, stream);
  GatherRows(a.partial, batch.logit_rows, a.last_partial, stream);
  AddRmsNorm(a.last_partial, weights_.final_norm.vector(), config_.rms_norm_eps, a.last_residual,
             a.last_normed, stream);
  Matmul(a.last_normed, weights_.LmHead(), {}, a.logit_shard, stream);
  if (ranks.world_size() == 1) return a.logit_shard;
  RETURN_IF_ERROR(ranks.GatherColumns(a.logit_shard, a.logits, stream));
  return a.logits;
}

absl::Status LlamaModel::AllocateActivations() {
  const int64_t tokens = max_batch_tokens_;
  const int64_t rows = max_logit_rows_;
  const int64_t hidden = config_.hidden_size;
  const int64_t q = layout_.q_heads.count * config_.head_size;
  const int64_t kv = layout_.kv_heads.count * config_.head_size;
  const bool gathers = layout_.shard.world_size > 1 && layout_.shard.rank == 0;
  const struct {
    MatrixView* view;
    DType dtype;
    int64_t rows, cols;
  } matrices[] = {
      {&whole_.residual, dtype(), tokens, hidden},
      {&whole_.normed, dtype(), tokens, hidden},
      {&whole_.qkv, dtype(), tokens, q + 2 * kv},
      {&whole_.attention, dtype(), tokens, q},
      {&whole_.partial, DType::kFloat32, tokens, hidden},
      {&whole_.gate_up, dtype(), tokens, 2 * layout_.intermediate.count},
      {&whole_.activated, dtype(), tokens, layout_.intermediate.count},
      {&whole_.last_residual, dtype(), rows, hidden},
      {&whole_.last_partial, DType::kFloat32, rows, hidden},
      {&whole_.last_normed, dtype(), rows, hidden},
      {&whole_.logit_shard, DType::kFloat32, rows, layout_.vocab.count},
      {&whole_.logits, DType::kFloat32, gathers ? rows : 0, layout_.padded_vocab},
  };
  int64_t bytes = 0;
  for (const auto& m : matrices) bytes += m.rows * m.cols * SizeOf(m.dtype);
  RETURN_IF_ERROR(
      CheckHostMemory(bytes, "activations", "lower --max_batch_tokens or --max_running_sequences"));
  for (const auto& m : matrices) {
    ASSIGN_OR_RETURN(HostBuffer buffer,
                     HostBuffer::Allocate(m.rows * m.cols * SizeOf(m.dtype), "activations"));
    *m.view = DenseMatrix(buffer.data(), m.dtype, m.rows, m.cols);
    activation_memory_.push_back(std::move(buffer));
  }
  return absl::OkStatus();
}

LlamaModel::Activations LlamaModel::ActivationsFor(int64_t tokens, int64_t logit_rows) const {
  Activations a = whole_;
  for (MatrixView* view :
       {&a.residual, &a.normed, &a.qkv, &a.attention, &a.partial, &a.gate_up, &a.activated}) {
    view->rows = tokens;
  }
  for (MatrixView* view : {&a.last_residual, &a.last_partial, &a.last_normed, &a.logit_shard}) {
    view->rows = logit_rows;
  }
  if (a.logits.data != nullptr) a.logits.rows = logit_rows;
  return a;
}

}  // namespace caravan
