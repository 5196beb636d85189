#include "worker/model/llama_weights.h"

#include <algorithm>

#include "common/status.h"

namespace caravan {
namespace {

// A tensor's rows go to rows [target_row, …) of a fused weight.
struct Part {
  std::string name;
  int64_t whole_rows;
  Slice rows;
};

// Allocates weights and notes where their pieces come from. The first error is kept.
class WeightMaker {
 public:
  WeightMaker(DType dtype, DeviceStream stream, std::vector<WeightPiece>* pieces)
      : dtype_(dtype), stream_(stream), pieces_(pieces) {}

  // Rows of several tensors of `cols` columns below one another.
  Weight Rows(const std::vector<Part>& parts, int64_t cols) {
    int64_t rows = 0;
    for (const Part& part : parts) rows += part.rows.count;
    Weight weight = Allocate(parts.front().name, rows, cols);
    int64_t row = 0;
    for (const Part& part : parts) {
      Add(weight, row, {part.name, {part.whole_rows, cols}, part.rows, {0, cols}, dtype_});
      row += part.rows.count;
    }
    return weight;
  }

  // All rows of a [rows, whole_cols] tensor, some columns.
  Weight Columns(const std::string& name, int64_t rows, int64_t whole_cols, Slice cols) {
    Weight weight = Allocate(name, rows, cols.count);
    Add(weight, 0, {name, {rows, whole_cols}, {0, rows}, cols, dtype_});
    return weight;
  }

  // Elements of several vectors behind one another.
  Weight Vectors(const std::vector<Part>& parts, bool is_norm = false) {
    int64_t size = 0;
    for (const Part& part : parts) size += part.rows.count;
    Weight weight = size > 0 ? Allocate(parts.front().name, 1, size) : Weight();
    int64_t begin = 0;
    for (const Part& part : parts) {
      WeightPiece piece = {part.name, {part.whole_rows}, {0, 1}, part.rows, dtype_};
      piece.is_norm = is_norm;
      piece.target = static_cast<std::byte*>(weight.buffer.data()) + begin * SizeOf(dtype_);
      pieces_->push_back(std::move(piece));
      begin += part.rows.count;
    }
    return weight;
  }

  const absl::Status& status() const { return status_; }

 private:
  Weight Allocate(const std::string& name, int64_t rows, int64_t cols) {
    Weight weight;
    absl::StatusOr<ModelMemory> buffer =
        ModelMemory::Allocate(stream_, rows * cols * SizeOf(dtype_), name);
    if (!buffer.ok()) {
      if (status_.ok()) status_ = buffer.status();
      return weight;
    }
    weight.buffer = *std::move(buffer);
    weight.dtype = dtype_;
    weight.rows = rows;
    weight.cols = cols;
    return weight;
  }

  void Add(const Weight& weight, int64_t row, WeightPiece piece) {
    piece.target =
        static_cast<std::byte*>(weight.buffer.data()) + row * weight.cols * SizeOf(dtype_);
    pieces_->push_back(std::move(piece));
  }

  DType dtype_;
  DeviceStream stream_;
  std::vector<WeightPiece>* pieces_;
  absl::Status status_;
};

Slice Scaled(Slice slice, int64_t factor) { return {slice.begin * factor, slice.count * factor}; }

LlamaLayer MakeLayer(const ModelConfig& config, const ShardLayout& layout, int32_t index,
                     WeightMaker* maker) {
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  const int64_t hidden = config.hidden_size;
  const int64_t q_rows = int64_t{config.num_heads} * config.head_size;
  const int64_t kv_rows = int64_t{config.num_kv_heads} * config.head_size;
  const Slice q = Scaled(layout.q_heads, config.head_size);
  const Slice kv = Scaled(layout.kv_heads, config.head_size);
  const Slice all_hidden = {0, hidden};
  const Slice hidden_on_rank_0 = {0, layout.shard.rank == 0 ? hidden : 0};
  const auto qkv = [&](const char* suffix) {
    return std::vector<Part>{{prefix + "self_attn.q_proj." + suffix, q_rows, q},
                             {prefix + "self_attn.k_proj." + suffix, kv_rows, kv},
                             {prefix + "self_attn.v_proj." + suffix, kv_rows, kv}};
  };
  const auto gate_up = [&](const char* suffix) {
    return std::vector<Part>{
        {prefix + "mlp.gate_proj." + suffix, config.intermediate_size, layout.intermediate},
        {prefix + "mlp.up_proj." + suffix, config.intermediate_size, layout.intermediate}};
  };
  LlamaLayer layer;
  layer.input_norm =
      maker->Vectors({{prefix + "input_layernorm.weight", hidden, all_hidden}}, true);
  layer.qkv = maker->Rows(qkv("weight"), hidden);
  layer.o = maker->Columns(prefix + "self_attn.o_proj.weight", hidden, q_rows, q);
  if (config.attention_bias) {
    layer.qkv_bias = maker->Vectors(qkv("bias"));
    layer.o_bias = maker->Vectors({{prefix + "self_attn.o_proj.bias", hidden, hidden_on_rank_0}});
  }
  layer.post_norm =
      maker->Vectors({{prefix + "post_attention_layernorm.weight", hidden, all_hidden}}, true);
  layer.gate_up = maker->Rows(gate_up("weight"), hidden);
  layer.down = maker->Columns(prefix + "mlp.down_proj.weight", hidden, config.intermediate_size,
                              layout.intermediate);
  if (config.mlp_bias) {
    layer.gate_up_bias = maker->Vectors(gate_up("bias"));
    layer.down_bias = maker->Vectors({{prefix + "mlp.down_proj.bias", hidden, hidden_on_rank_0}});
  }
  return layer;
}

}  // namespace

int64_t WeightBytes(const ModelConfig& config, const ShardLayout& layout, DType dtype) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = layout.q_heads.count * config.head_size;
  const int64_t kv = layout.kv_heads.count * config.head_size;
  int64_t layer = 2 * hidden + (2 * q + 2 * kv + 3 * layout.intermediate.count) * hidden;
  if (config.attention_bias) layer += q + 2 * kv + hidden;
  if (config.mlp_bias) layer += 2 * layout.intermediate.count + hidden;
  const int64_t ends = layout.vocab.count * hidden * (config.tie_word_embeddings ? 1 : 2) + hidden;
  return (config.num_layers * layer + ends) * SizeOf(dtype);
}

absl::StatusOr<LlamaWeights> AllocateLlamaWeights(const ModelConfig& config,
                                                  const ShardLayout& layout, DType dtype,
                                                  std::vector<WeightPiece>* pieces,
                                                  DeviceStream stream) {
  WeightMaker maker(dtype, stream, pieces);
  const int64_t hidden = config.hidden_size;
  // Of the padded vocabulary's slice, the rows that exist; the rest stays zero.
  const int64_t real_rows =
      std::clamp<int64_t>(config.vocab_size - layout.vocab.begin, 0, layout.vocab.count);
  const auto vocabulary = [&](const char* name) {
    Weight weight = maker.Rows({{name, config.vocab_size, layout.vocab}}, hidden);
    pieces->back().rows.count = real_rows;
    return weight;
  };
  LlamaWeights weights;
  weights.dtype = dtype;
  weights.embedding = vocabulary("model.embed_tokens.weight");
  for (int32_t i = 0; i < config.num_layers && maker.status().ok(); ++i) {
    weights.layers.push_back(MakeLayer(config, layout, i, &maker));
  }
  weights.final_norm = maker.Vectors({{"model.norm.weight", hidden, {0, hidden}}}, true);
  if (!config.tie_word_embeddings) weights.lm_head = vocabulary("lm_head.weight");
  RETURN_IF_ERROR(maker.status());
  return weights;
}

}  // namespace caravan
