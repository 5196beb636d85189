// Cosines and sines of the rotary position embedding, for every rope type of ModelConfig.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device_stream.h"
#include "kernels/view.h"
#include "worker/model/model_config.h"
#include "worker/model/model_memory.h"

namespace caravan {

// Inverse frequencies [head_size / 2] for a sequence of `sequence_tokens` tokens (only the dynamic
// type depends on it), and the factor on cosines and sines, in the float32 steps of transformers
// 4.57 modeling_rope_utils.py: _compute_{default_rope,linear_scaling_rope,dynamic_ntk,llama3,yarn}_
// parameters. Sources: linear: Chen et al. 2023, arXiv:2306.15595; dynamic: NTK-aware scaling;
// yarn: Peng et al. 2023, arXiv:2309.00071; llama3: Llama 3.1 model card.
std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, int32_t head_size,
                                          int32_t max_positions, int64_t sequence_tokens);
float RopeAttentionFactor(const RopeConfig& rope);

// Rows [cosines | sines] of head_size floats: row p for a token at position p, then scratch rows
// that a step fills. One thread at a time.
//
// With dynamic scaling the angle of a token depends on how long its sequence was when it was run.
// The rule, which gives what Hugging Face's generate gives for one sequence, however it is batched
// or cut: a token of a prompt of P tokens uses the frequencies of max(P, original) tokens, a
// generated token at position p those of max(p + 1, original). Only tokens of prompts longer than
// the original maximum need scratch rows.
class RopeTable {
 public:
  RopeTable(const ModelConfig& config, int32_t max_context_tokens, int32_t scratch_rows);

  static int64_t Bytes(const ModelConfig& config, int32_t max_context_tokens, int32_t scratch_rows);

  // From now on view() is a copy in memory of `stream`'s device; whoever makes scratch rows copies
  // them there. RESOURCE_EXHAUSTED where there is no room.
  absl::Status CopyTo(DeviceStream stream);

  ConstMatrixView view() const;

  // Forgets the scratch rows of the step before.
  void BeginStep() { used_scratch_ = 0; }

  // Row for the token at `position` of a sequence whose prompt has `prompt_tokens` tokens.
  // Makes at most one scratch row a call.
  int32_t RowFor(int64_t position, int64_t prompt_tokens);

  // The scratch rows of this step, and where they belong in view().
  std::span<const float> scratch() const;
  void* scratch_target() const;
  int64_t most_scratch_bytes() const;  // of a step; 0 where no prompt needs such rows
  // Whether a token of such a prompt may need a scratch row.
  bool NeedsScratch(int64_t prompt_tokens) const {
    return rope_.type == RopeType::kDynamic && prompt_tokens > max_positions_;
  }

  // Longest prompt whose keys do not depend on its length.
  int32_t max_shareable_prompt_tokens() const;

 private:
  void FillRow(int64_t row, int64_t position, const std::vector<float>& inverse_frequencies);

  RopeConfig rope_;
  int32_t head_size_;
  int32_t max_positions_;
  int64_t static_rows_;
  int64_t used_scratch_ = 0;
  int64_t scratch_prompt_tokens_ = 0;  // what scratch_frequencies_ were made for
  std::vector<float> scratch_frequencies_;
  std::vector<float> rows_;
  ModelMemory copy_;
};

}  // namespace caravan
