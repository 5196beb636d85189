// What the engine is asked and what it answers. Host C++ only; made by validation, never checked
// again.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace caravan {

// Identifies a request within one engine. Chosen by the service (session id and the client's
// request id), unique among the requests that have not finished.
using RequestKey = uint64_t;

struct LogitBias {
  int32_t token_id = 0;
  float bias = 0;
};

// How tokens are chosen; the order of application is that of kernels/sampling.h.
struct SamplingParams {
  float temperature = 1;  // [0, 100]; 0 = greedy
  int32_t top_k = 0;      // 0 = all
  float top_p = 1;        // (0, 1]
  float min_p = 0;        // [0, 1]
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<LogitBias> logit_bias;
  std::vector<std::vector<int32_t>>
      bad_words;  // the last token of a word is banned where the others precede it
  std::vector<int32_t>
      stop_token_ids;         // end the sequence; the stop token itself is emitted, marked as such
  int32_t min_tokens = 0;     // stop_token_ids are banned before so many generated tokens
  int32_t max_tokens = 16;    // generated tokens, ≥ 1
  int32_t num_logprobs = -1;  // -1 none, 0 of the chosen token, k > 0 of the k best too
  bool processed_logprobs = false;  // see SamplingRow
  uint64_t seed = 0;
  // Where top_k is 0 (Lee et al. 2022, arXiv:2206.04624): after n tokens that were generated since
  // the last top_p_reset_id, or the first one, top_p is max(top_p · top_p_decay^n, top_p_min) for
  // n > 0.
  float top_p_decay = 1;  // (0, 1]
  float top_p_min = 1e-6F;
  int32_t top_p_reset_id = -1;   // -1: none
  bool penalize_prompt = false;  // presence and frequency penalties count the prompt's tokens too
  // End the sequence where its tokens, the prompt's included, end in one of them.
  std::vector<std::vector<int32_t>> stop_sequences;
};

// Beam search in place of draws; see beam_search.h.
struct BeamParams {
  int32_t width = 1;  // [1, kMaxBeamWidth]; 1 = none
  float length_penalty = 0;
  float diversity_rate = 0;
  // Events show the beams when their tokens and the offset are a multiple of it; 0: not before the
  // end.
  int32_t snapshot_interval = 0;
  int32_t snapshot_offset = 0;
};
constexpr int32_t kMaxBeamWidth = 16;

// A request, immutable. `prompt` may end in tokens that an earlier attempt generated: the first
// `num_resumed` tokens of the output are then its last ones, and count as output for penalties,
// min_tokens, max_tokens and draws.
struct Request {
  RequestKey key = 0;
  std::string request_id;  // for logs: the id that the gateway gave
  std::vector<int32_t> prompt;
  int32_t num_resumed = 0;
  SamplingParams sampling;
  int32_t num_samples = 1;  // sequences generated from the one prompt, sharing its blocks
  BeamParams beams;         // width > 1: num_samples is 1, num_resumed 0
  int32_t priority = 0;     // smaller is sooner
  absl::Time deadline = absl::InfiniteFuture();
  uint64_t cache_salt = 0;  // adapter, tenant, media: only requests of equal salt share blocks

  // Sequences that its events tell of: samples, or beams (the best is sample_index 0). Each beam
  // comes in one event, when the search has ended; snapshots apart.
  int32_t num_sequences() const { return beams.width > 1 ? beams.width : num_samples; }
};

enum class FinishReason : uint8_t {
  kNone,          // goes on
  kStopToken,     // one of stop_token_ids was emitted
  kStopSequence,  // one of stop_sequences was
  kLength,        // max_tokens, or the model's context is full
  kCancelled,
  kDeadline,  // DEADLINE_EXCEEDED
  kError,     // see TokenEvent::status
};
const char* NameOf(FinishReason reason);

struct OutputLength {
  int32_t emitted = 0;     // tokens of the output
  int32_t length = 0;      // prompt and output
  int32_t max_length = 0;  // of both
};

// What ends a sequence with its newest token. `tokens` are its last ones, at least one and as many
// as the longest stop sequence has, where there are so many.
FinishReason FinishReasonOf(const SamplingParams& sampling, std::span<const int32_t> tokens,
                            const OutputLength& output);

struct EmittedToken {
  int32_t token_id = 0;
  float logprob = 0;  // 0 unless asked for
  std::vector<std::pair<int32_t, float>> top_logprobs;
};

// News of one sequence. Positions count from the first generated token of the request's first
// attempt, so that they tell repeats: tokens[i] has position first_position + i.
struct TokenEvent {
  RequestKey key = 0;
  int32_t sample_index = 0;
  int32_t first_position = 0;
  std::vector<EmittedToken> tokens;
  FinishReason finish = FinishReason::kNone;
  absl::Status status;  // not OK only with kError and kDeadline
  int32_t cached_prompt_tokens =
      0;  // on the first event of a sequence: prompt tokens that were found in the cache
  float cumulative_logprob = 0;  // of a beam: the sum over its tokens
  // A beam that may be another one at the next look. Up to first_position it is as at the last.
  bool snapshot = false;
};

}  // namespace caravan
