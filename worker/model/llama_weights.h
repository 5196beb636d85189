// The weights of one rank, and where each comes from in a checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/view.h"
#include "worker/model/model_config.h"
#include "worker/model/model_memory.h"
#include "worker/model/sharding.h"

namespace caravan {

// A dense matrix with memory of its own; a vector is one row.
struct Weight {
  ModelMemory buffer;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;

  ConstMatrixView matrix() const { return DenseMatrix(buffer.data(), dtype, rows, cols); }
  ConstVectorView vector() const { return {buffer.data(), dtype, rows * cols}; }
  WeightView linear() const {
    return {WeightFormat::kDense, dtype, buffer.data(), nullptr, rows, cols};
  }
};

// Biases are empty where the model has none; o_bias and down_bias also on all ranks but 0, since
// the sum over ranks must hold them once.
struct LlamaLayer {
  Weight input_norm;  // [hidden]
  Weight qkv;         // [(q_heads + 2 · kv_heads) · head_size, hidden]: q, k, v of this rank
  Weight qkv_bias;
  Weight o;  // [hidden, q_heads · head_size]
  Weight o_bias;
  Weight post_norm;  // [hidden], post_attention_layernorm
  Weight gate_up;    // [2 · intermediate, hidden]: gate, up of this rank
  Weight gate_up_bias;
  Weight down;  // [hidden, intermediate]
  Weight down_bias;
};

struct LlamaWeights {
  DType dtype = DType::kFloat32;
  Weight embedding;  // [vocab shard, hidden]; rows beyond the vocabulary are zero
  std::vector<LlamaLayer> layers;
  Weight final_norm;  // [hidden]
  Weight lm_head;     // [vocab shard, hidden]; empty where tied to the embedding

  WeightView LmHead() const {
    return lm_head.buffer.data() != nullptr ? lm_head.linear() : embedding.linear();
  }
};

// Part of one checkpoint tensor and where it goes: rows and columns of the whole tensor, to
// consecutive rows at `target`. A tensor that this rank only checks has no columns.
struct WeightPiece {
  std::string name;            // Hugging Face's
  std::vector<int64_t> shape;  // of the whole tensor: [rows, cols], or [cols]
  Slice rows;
  Slice cols;
  DType dtype = DType::kFloat32;  // of the target
  void* target = nullptr;         // [rows.count, cols.count], on the weights' device
  bool is_norm = false;

  int64_t whole_cols() const { return shape.back(); }
  int64_t target_bytes() const { return rows.count * cols.count * SizeOf(dtype); }
};

// Bytes of one rank's weights.
int64_t WeightBytes(const ModelConfig& config, const ShardLayout& layout, DType dtype);

// Allocates all weights of a rank on the stream's device, zeroed, and appends the pieces that fill
// them.
absl::StatusOr<LlamaWeights> AllocateLlamaWeights(const ModelConfig& config,
                                                  const ShardLayout& layout, DType dtype,
                                                  std::vector<WeightPiece>* pieces,
                                                  DeviceStream stream = DeviceStream::Cpu());

}  // namespace caravan
