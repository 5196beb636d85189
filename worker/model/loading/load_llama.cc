#include "worker/model/loading/load_llama.h"

#include <optional>

#include "common/status.h"
#include "worker/model/loading/checkpoint.h"
#include "worker/model/loading/weight_loader.h"

namespace caravan {
namespace {

absl::Status CheckOptions(const LoadOptions& options) {
  if (options.load_format != "auto" && options.load_format != "dummy") {
    return absl::InvalidArgumentError(
        absl::StrCat("--load_format is ", options.load_format, ", must be auto or dummy"));
  }
  if (options.max_batch_tokens < 1 || options.max_logit_rows < 1) {
    return absl::InvalidArgumentError(
        "--max_batch_tokens and --max_running_sequences must be at "
        "least 1");
  }
  if (options.max_context_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max_context_tokens is ", options.max_context_tokens, ", must be at least 0"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> ContextTokens(const LoadOptions& options, const ModelConfig& config) {
  const int32_t most = config.DefaultContextTokens();
  if (options.max_context_tokens == 0) return most;
  if (options.max_context_tokens <= most || !config.max_positions_known) {
    return options.max_context_tokens;
  }
  return absl::InvalidArgumentError(absl::StrCat("--max_context_tokens is ",
                                                 options.max_context_tokens,
                                                 ", the model is made for at most ", most));
}

absl::StatusOr<DType> ChooseDtype(const LoadOptions& options, const ModelConfig& config,
                                  const std::optional<Checkpoint>& checkpoint) {
  if (options.dtype != "auto") {
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      if (options.dtype == NameOf(dtype)) return dtype;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype is ", options.dtype, ", must be auto, float32, float16 or bfloat16"));
  }
  if (config.dtype) return *config.dtype;
  if (checkpoint) {
    const auto it = checkpoint->tensors().find("model.embed_tokens.weight");
    if (it != checkpoint->tensors().end() && it->second.tensor->dtype()) {
      return *it->second.tensor->dtype();
    }
  }
  return DType::kFloat32;
}

std::string ModelFingerprint(const ModelConfig& config, DType dtype,
                             const std::optional<Checkpoint>& checkpoint) {
  const RopeConfig& rope = config.rope;
  Fingerprint fingerprint;
  fingerprint.Add("LlamaForCausalLM");
  for (const int64_t number :
       {int64_t{config.hidden_size}, int64_t{config.intermediate_size}, int64_t{config.num_layers},
        int64_t{config.num_heads}, int64_t{config.num_kv_heads}, int64_t{config.head_size},
        int64_t{config.vocab_size}, int64_t{config.max_positions},
        int64_t{config.tie_word_embeddings}, int64_t{config.attention_bias},
        int64_t{config.mlp_bias}, static_cast<int64_t>(rope.type), rope.original_max_positions,
        int64_t{rope.truncate}, static_cast<int64_t>(dtype), int64_t{checkpoint.has_value()}}) {
    fingerprint.Add(number);
  }
  for (const double number :
       {static_cast<double>(config.rms_norm_eps), rope.theta, rope.factor, rope.low_freq_factor,
        rope.high_freq_factor, rope.beta_fast, rope.beta_slow, rope.attention_factor.value_or(-1),
        rope.mscale.value_or(-1), rope.mscale_all_dim.value_or(-1)}) {
    fingerprint.Add(&number, sizeof(number));
  }
  if (checkpoint) checkpoint->AddTo(&fingerprint);
  return fingerprint.Hex();
}

absl::StatusOr<LlamaWeights> LoadWeights(const LoadOptions& options, const LlamaSource& source) {
  const ShardLayout& layout = source.layout;
  RETURN_IF_ERROR(CheckMemory(options.stream, WeightBytes(source.config, layout, source.dtype),
                              absl::StrCat("the weights of rank ", layout.shard.rank, " of ",
                                           layout.shard.world_size, " in ", NameOf(source.dtype)),
                              "raise --tensor_parallel or choose --dtype=bfloat16 or float16"));
  std::vector<WeightPiece> pieces;
  ASSIGN_OR_RETURN(LlamaWeights weights, AllocateLlamaWeights(source.config, layout, source.dtype,
                                                              &pieces, options.stream));
  const LoadThreads threads = {options.load_threads, options.progress, options.stream};
  if (!source.checkpoint) {
    RETURN_IF_ERROR(FillDummyPieces(pieces, threads));
    return weights;
  }
  std::vector<std::string> ignored;
  if (source.config.tie_word_embeddings) ignored.push_back("lm_head.weight");
  RETURN_IF_ERROR(CheckTensors(*source.checkpoint, pieces, ignored));
  RETURN_IF_ERROR(LoadPieces(*source.checkpoint, pieces, threads));
  return weights;
}

}  // namespace

absl::StatusOr<LlamaSource> OpenLlama(const LoadOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  LlamaSource source;
  ASSIGN_OR_RETURN(source.config, LoadModelConfig(options.model_folder));
  ASSIGN_OR_RETURN(source.layout, MakeShardLayout(source.config, options.shard));
  ASSIGN_OR_RETURN(source.max_context_tokens, ContextTokens(options, source.config));
  if (options.load_format != "dummy") {
    ASSIGN_OR_RETURN(source.checkpoint, Checkpoint::Open(options.model_folder));
  }
  ASSIGN_OR_RETURN(source.dtype, ChooseDtype(options, source.config, source.checkpoint));
  return source;
}

absl::StatusOr<std::unique_ptr<LlamaModel>> LoadLlama(LlamaSource source,
                                                      const LoadOptions& options) {
  ASSIGN_OR_RETURN(LlamaWeights weights, LoadWeights(options, source));
  const int32_t context = source.max_context_tokens;
  RETURN_IF_ERROR(CheckMemory(
      options.stream, RopeTable::Bytes(source.config, context, options.max_batch_tokens),
      absl::StrCat("rope tables for ", context, " positions"), "lower --max_context_tokens"));
  RopeTable rope(source.config, context, options.max_batch_tokens);
  if (options.stream.device() != Device::kCpu) RETURN_IF_ERROR(rope.CopyTo(options.stream));
  const ActivationOptions activations = {options.max_batch_tokens, options.max_logit_rows,
                                         source.dtype, options.stream};
  std::string fingerprint = ModelFingerprint(source.config, source.dtype, source.checkpoint);
  auto model = std::unique_ptr<LlamaModel>(new LlamaModel(std::move(source.config), source.layout,
                                                          options.stream, std::move(weights),
                                                          std::move(rope)));
  model->fingerprint_ = std::move(fingerprint);
  model->max_context_tokens_ = context;
  model->max_batch_tokens_ = options.max_batch_tokens;
  model->max_logit_rows_ = options.max_logit_rows;
  ASSIGN_OR_RETURN(model->activations_,
                   ActivationMemory::Allocate(model->config_, model->layout_, activations));
  return model;
}

absl::StatusOr<std::unique_ptr<LlamaModel>> LoadLlama(const LoadOptions& options) {
  ASSIGN_OR_RETURN(LlamaSource source, OpenLlama(options));
  return LoadLlama(std::move(source), options);
}

}  // namespace caravan
