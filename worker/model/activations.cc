#include "worker/model/activations.h"

#include "common/status.h"

namespace caravan {
namespace {

constexpr int64_t kAlignment = 256;  // of each matrix: whole sectors, and any vector's width

struct Matrix {
  MatrixView Activations::*view;
  DType dtype;
  int64_t rows, cols;

  int64_t bytes() const {
    return (rows * cols * SizeOf(dtype) + kAlignment - 1) / kAlignment * kAlignment;
  }
};

// On CUDA all ranks draw, so all need the whole rows of logits; on the CPU rank 0 does.
bool GathersLogits(const ShardLayout& layout, Device device) {
  return layout.shard.world_size > 1 && (layout.shard.rank == 0 || device == Device::kCuda);
}

std::vector<Matrix> Matrices(const ModelConfig& config, const ShardLayout& layout,
                             const ActivationOptions& options) {
  const int64_t tokens = options.max_tokens;
  const int64_t rows = options.max_logit_rows;
  const int64_t hidden = config.hidden_size;
  const int64_t q = layout.q_heads.count * config.head_size;
  const int64_t kv = layout.kv_heads.count * config.head_size;
  const int64_t gathered_rows = GathersLogits(layout, options.stream.device()) ? rows : 0;
  const DType dtype = options.dtype;
  return {
      {&Activations::residual, dtype, tokens, hidden},
      {&Activations::normed, dtype, tokens, hidden},
      {&Activations::qkv, dtype, tokens, q + 2 * kv},
      {&Activations::attention, dtype, tokens, q},
      {&Activations::partial, DType::kFloat32, tokens, hidden},
      {&Activations::gate_up, dtype, tokens, 2 * layout.intermediate.count},
      {&Activations::activated, dtype, tokens, layout.intermediate.count},
      {&Activations::last_residual, dtype, rows, hidden},
      {&Activations::last_partial, DType::kFloat32, rows, hidden},
      {&Activations::last_normed, dtype, rows, hidden},
      {&Activations::logit_shard, DType::kFloat32, rows, layout.vocab.count},
      {&Activations::logits, DType::kFloat32, gathered_rows, layout.padded_vocab},
  };
}

}  // namespace

int64_t ActivationMemory::Bytes(const ModelConfig& config, const ShardLayout& layout,
                                const ActivationOptions& options) {
  int64_t bytes = 0;
  for (const Matrix& matrix : Matrices(config, layout, options)) bytes += matrix.bytes();
  return bytes;
}

absl::StatusOr<ActivationMemory> ActivationMemory::Allocate(const ModelConfig& config,
                                                            const ShardLayout& layout,
                                                            const ActivationOptions& options) {
  const int64_t bytes = Bytes(config, layout, options);
  RETURN_IF_ERROR(CheckMemory(options.stream, bytes, "activations",
                              "lower --max_batch_tokens or --max_running_sequences"));
  ActivationMemory activations;
  ASSIGN_OR_RETURN(activations.memory_,
                   ModelMemory::Allocate(options.stream, bytes, "activations"));
  auto* next = static_cast<std::byte*>(activations.memory_.data());
  for (const Matrix& matrix : Matrices(config, layout, options)) {
    if (matrix.rows == 0) continue;
    activations.whole_.*matrix.view = DenseMatrix(next, matrix.dtype, matrix.rows, matrix.cols);
    next += matrix.bytes();
  }
  return activations;
}

Activations ActivationMemory::First(int64_t tokens, int64_t logit_rows) const {
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
