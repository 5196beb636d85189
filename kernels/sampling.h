// From logits to one token a row, with mixed parameters in one call.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

struct TokenBias {
  int32_t token_id = 0;
  float bias = 0;  // added to the logit; -infinity bans the token
};

// Parameters of one row; everything is applied in the order of the fields, all in float32.
struct SamplingRow {
  // Logit bias, bad words, stop ids below min_tokens; ids may repeat.
  std::span<const TokenBias> biases = {};
  // The tokens before `position`, for the penalties; empty without any. The first
  // `history_prompt` of them count for the repetition penalty alone.
  std::span<const int32_t> history = {};
  int32_t history_prompt = 0;
  float repetition_penalty =
      1;  // logit l of a token in prompt or output: l > 0 ? l / r : l · r  (arXiv:1909.05858)
  float frequency_penalty = 0;  // l -= frequency_penalty · count in the history after the prompt
  float presence_penalty = 0;   // l -= presence_penalty where that count > 0
  // l /= temperature, at most the greatest float. Below kLeastTemperature: greedy, the lowest id
  // among the greatest logits, no draw.
  float temperature = 1;
  int32_t top_k = 0;  // keep the k greatest (ties: lower id first); 0 = all
  float top_p = 1;  // then the fewest greatest whose probabilities (renormalized after top_k) reach
                    // top_p; at least one
  float min_p = 0;  // then those whose probability is at least min_p (at most 1) times the
                    // greatest one's
  // The draw: Philox4x32-10 (Salmon et al. 2011), key = seed, counter = (position low,
  // sample_index, purpose, id / 4), word w = id % 4 makes a uniform u = 1 - (w + 1/2) / 2^32; the
  // kept id with the greatest l - log(-log u) wins (Gumbel-max), ties by lower id, so the draw
  // depends on nothing but the request and the logits.
  uint64_t seed = 0;
  int64_t position = 0;  // absolute position of the token that is being drawn
  uint32_t sample_index = 0;
  // Log probabilities: -1 none, 0 the drawn token's, k > 0 also the k greatest (at most
  // kMaxTopLogprobs).
  int32_t num_logprobs = -1;
  bool processed_logprobs =
      false;  // of the logits after biases, penalties, temperature; else of the model's own
  bool skipped = false;  // padding: the output's token_id is -1
};

constexpr int32_t kMaxTopLogprobs = 20;
constexpr float kLeastTemperature = 1e-5f;

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;
};

struct SamplingOutput {
  int32_t token_id = 0;
  float logprob = 0;    // of token_id; 0 where num_logprobs is -1
  int32_t num_top = 0;  // how many of `top` are set
  // Whether the model's own logit of token_id is a number below the greatest float. If not, no
  // token could be drawn from what the model gave, or one was whose logit overflowed.
  bool finite = true;
  TokenLogprob top[kMaxTopLogprobs];  // greatest first, ties by lower id
};

// One token a row. NaN counts as -infinity, +infinity as the greatest float; where that leaves no
// possible token, or the parameters ban all, it is token 0. `logits` may be overwritten. Columns
// from vocab_size on (padding) are never drawn. On CUDA, `rows` and what its spans point to lie in
// device memory too.
void Sample(MatrixView logits,  // float32 [rows, ≥ vocab_size]
            int32_t vocab_size,
            std::span<const SamplingRow> rows,  // [rows]
            std::span<SamplingOutput> outputs,  // [rows]
            DeviceStream stream);

}  // namespace caravan
