#include "worker/request_validation.h"

#include <algorithm>
#include <limits>

#include "common/status.h"
#include "worker/replica/step_plan_codec.h"

namespace caravan {
namespace {

constexpr int kMaxSamples = 16;
constexpr int kMaxLogprobs = 20;
constexpr int kMaxPriority = 100;
constexpr int kMaxBiases = 1024;
constexpr int kMaxBadWords = 1024;
constexpr int kMaxBadWordTokens = 1024;
constexpr int kMaxTokensOfBadWords = 4096;  // what a slot of the runner holds
constexpr int kMaxStopTokens = 1024;
constexpr int kMaxStopSequences = 1024;
constexpr int kMaxStopSequenceTokens = 1024;
constexpr int64_t kMaxBeamOutput = 65536;  // tokens and their top log probabilities, in one burst

absl::Status CheckNumber(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be from ", least, " to ", most));
}

// NaN is outside of every range.
absl::Status CheckReal(const char* field, float value, float least, float most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be from ", least, " to ", most));
}

absl::Status CheckAboveZero(const char* field, float value, float most) {
  if (value > 0 && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be above 0 and at most ", most));
}

template <typename Ids>
absl::Status CheckTokens(const char* field, const Ids& ids, int32_t vocab_size) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        field, " has token id ", id, "; the model's vocabulary goes from 0 to ", vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const v1::WorkerSampling& s, const SubmitLimits& limits) {
  RETURN_IF_ERROR(CheckReal("temperature", s.temperature(), 0, 100));
  RETURN_IF_ERROR(CheckNumber("top_k", s.top_k(), 0, limits.vocab_size));
  RETURN_IF_ERROR(CheckAboveZero("top_p", s.top_p(), 1));
  RETURN_IF_ERROR(CheckReal("min_p", s.min_p(), 0, 1));
  RETURN_IF_ERROR(CheckAboveZero("repetition_penalty", s.repetition_penalty(), 100));
  RETURN_IF_ERROR(CheckReal("presence_penalty", s.presence_penalty(), -100, 100));
  RETURN_IF_ERROR(CheckReal("frequency_penalty", s.frequency_penalty(), -100, 100));
  RETURN_IF_ERROR(CheckNumber("number of logit_bias entries", s.logit_bias_size(), 0, kMaxBiases));
  for (const auto& [id, bias] : s.logit_bias()) {
    RETURN_IF_ERROR(
        CheckTokens("logit_bias", std::initializer_list<int32_t>{id}, limits.vocab_size));
    RETURN_IF_ERROR(CheckReal("logit_bias", bias, -100, 100));
  }
  RETURN_IF_ERROR(CheckNumber("number of bad_words", s.bad_words_size(), 0, kMaxBadWords));
  int64_t tokens_of_bad_words = 0;
  for (const v1::WorkerTokens& word : s.bad_words()) {
    RETURN_IF_ERROR(
        CheckNumber("number of tokens of a bad word", word.ids_size(), 1, kMaxBadWordTokens));
    RETURN_IF_ERROR(CheckTokens("bad_words", word.ids(), limits.vocab_size));
    tokens_of_bad_words += word.ids_size();
  }
  RETURN_IF_ERROR(CheckNumber("number of tokens of all bad_words", tokens_of_bad_words, 0,
                              kMaxTokensOfBadWords));
  RETURN_IF_ERROR(
      CheckNumber("number of stop_token_ids", s.stop_token_ids_size(), 0, kMaxStopTokens));
  RETURN_IF_ERROR(CheckTokens("stop_token_ids", s.stop_token_ids(), limits.vocab_size));
  RETURN_IF_ERROR(
      CheckNumber("number of stop_sequences", s.stop_sequences_size(), 0, kMaxStopSequences));
  for (const v1::WorkerTokens& sequence : s.stop_sequences()) {
    RETURN_IF_ERROR(CheckNumber("number of tokens of a stop sequence", sequence.ids_size(), 1,
                                kMaxStopSequenceTokens));
    RETURN_IF_ERROR(CheckTokens("stop_sequences", sequence.ids(), limits.vocab_size));
  }
  RETURN_IF_ERROR(CheckReal("top_p_decay", s.top_p_decay(), 0, 1));
  RETURN_IF_ERROR(CheckReal("top_p_min", s.top_p_min(), 0, 1));
  if (s.has_top_p_reset_id()) {
    RETURN_IF_ERROR(CheckTokens(
        "top_p_reset_id", std::initializer_list<int32_t>{s.top_p_reset_id()}, limits.vocab_size));
  }
  RETURN_IF_ERROR(
      CheckNumber("max_tokens", s.max_tokens(), 1, std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(CheckNumber("min_tokens", s.min_tokens(), 0, s.max_tokens()));
  return CheckNumber("num_logprobs", s.num_logprobs(), -1, kMaxLogprobs);
}

absl::Status CheckSeams(const v1::WorkerSubmit& submit) {
  const char* unknown = nullptr;
  if (!submit.response_format().empty()) unknown = "response_format";
  if (submit.logits_processors_size() > 0) unknown = "logits_processors";
  if (!submit.resume_state().empty()) unknown = "resume_state";
  if (unknown == nullptr) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(unknown, " is set; this worker does not know it: leave it empty"));
}

absl::Status CheckBeams(const v1::WorkerSubmit& submit, const SubmitLimits& limits) {
  if (submit.beam_width() <= 1) return absl::OkStatus();
  RETURN_IF_ERROR(CheckNumber("beam_width", submit.beam_width(), 0,
                              std::min(kMaxBeamWidth, limits.vocab_size)));
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max() / 2;
  RETURN_IF_ERROR(CheckNumber("beam_snapshot_interval", submit.beam_snapshot_interval(), 0, kMost));
  RETURN_IF_ERROR(CheckNumber("beam_snapshot_offset", submit.beam_snapshot_offset(), 0, kMost));
  RETURN_IF_ERROR(CheckReal("length_penalty", submit.length_penalty(), -10, 10));
  RETURN_IF_ERROR(CheckReal("beam_diversity_rate", submit.beam_diversity_rate(), -100, 100));
  if (submit.num_samples() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("num_samples is ", submit.num_samples(),
                                                   " and beam_width ", submit.beam_width(),
                                                   "; they exclude each other"));
  }
  if (submit.num_resumed() > 0) {
    return absl::InvalidArgumentError(absl::StrCat("beam_width is ", submit.beam_width(),
                                                   "; a search can't be resumed, start it again"));
  }
  const v1::WorkerSampling& sampling = submit.sampling();
  const int64_t tokens = std::min<int64_t>(sampling.max_tokens(), limits.max_context_tokens);
  return CheckNumber("beam_width * max_tokens * (1 + num_logprobs)",
                     submit.beam_width() * tokens * (1 + std::max(0, sampling.num_logprobs())), 0,
                     kMaxBeamOutput);
}

absl::Status CheckModel(const v1::WorkerSubmit& submit, const SubmitLimits& limits) {
  if (submit.model() != limits.model) {
    return absl::NotFoundError(
        absl::StrCat("model '", submit.model(), "' is not served here; '", limits.model, "' is"));
  }
  if (!submit.adapter().empty()) {
    return absl::NotFoundError(
        absl::StrCat("adapter '", submit.adapter(), "' is not served; none is"));
  }
  if (!submit.expected_fingerprint().empty() &&
      submit.expected_fingerprint() != limits.fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model has fingerprint ", limits.fingerprint, ", not the expected ",
        submit.expected_fingerprint(), ": output of the one can't be resumed by the other"));
  }
  return absl::OkStatus();
}

absl::Status CheckPrompt(const v1::WorkerSubmit& submit, const SubmitLimits& limits) {
  const int size = submit.prompt_token_ids_size();
  if (size == 0) return absl::InvalidArgumentError("the prompt is empty; give at least one token");
  if (size > limits.max_prompt_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", size, " tokens, the model takes ", limits.max_prompt_tokens));
  }
  RETURN_IF_ERROR(CheckTokens("the prompt", submit.prompt_token_ids(), limits.vocab_size));
  RETURN_IF_ERROR(CheckNumber("num_resumed", submit.num_resumed(), 0, size - 1));
  RETURN_IF_ERROR(CheckNumber("num_samples", submit.num_samples(), 1, kMaxSamples));
  if (submit.num_resumed() > 0 && submit.num_samples() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("num_samples is ", submit.num_samples(),
                                                   "; a resumed request has one sequence"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Request> ValidateSubmit(const v1::WorkerSubmit& submit, const SubmitLimits& limits,
                                       absl::Time now) {
  RETURN_IF_ERROR(CheckModel(submit, limits));
  RETURN_IF_ERROR(CheckSeams(submit));
  RETURN_IF_ERROR(CheckPrompt(submit, limits));
  RETURN_IF_ERROR(CheckNumber("priority", submit.priority(), -kMaxPriority, kMaxPriority));
  RETURN_IF_ERROR(
      CheckNumber("timeout_ms", submit.timeout_ms(), 0, std::numeric_limits<int64_t>::max()));
  if (!submit.has_sampling()) return absl::InvalidArgumentError("sampling is not set");
  RETURN_IF_ERROR(CheckSampling(submit.sampling(), limits));
  RETURN_IF_ERROR(CheckBeams(submit, limits));

  Request request;
  request.request_id = submit.request_id();
  request.prompt.assign(submit.prompt_token_ids().begin(), submit.prompt_token_ids().end());
  request.num_resumed = static_cast<int32_t>(submit.num_resumed());
  request.sampling = DecodeSampling(submit.sampling());
  request.num_samples = static_cast<int32_t>(submit.num_samples());
  if (submit.beam_width() > 1) {
    request.beams = {static_cast<int32_t>(submit.beam_width()), submit.length_penalty(),
                     submit.beam_diversity_rate(),
                     static_cast<int32_t>(submit.beam_snapshot_interval()),
                     static_cast<int32_t>(submit.beam_snapshot_offset())};
  }
  request.priority = submit.priority();
  if (submit.timeout_ms() > 0) request.deadline = now + absl::Milliseconds(submit.timeout_ms());
  request.cache_salt = submit.cache_salt();
  return request;
}

}  // namespace caravan
