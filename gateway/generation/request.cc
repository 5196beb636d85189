#include "gateway/generation/request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/server.h"
#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

constexpr size_t kMaxNameBytes = 128;
constexpr uint32_t kMaxSamples = 16;
constexpr int32_t kMaxPriority = 100;
constexpr size_t kMaxLogitBiases = 1024;
constexpr size_t kMaxBadWords = 256;
constexpr size_t kMaxStopTokens = 64;
constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 256;
constexpr uint32_t kMaxTopLogprobs = 20;
constexpr uint32_t kDefaultMaxTokens = 16;
constexpr uint32_t kMaxBeamWidth = 16;
constexpr uint64_t kMaxBeamOutput = 65536;  // tokens and their top log probabilities
constexpr size_t kMaxStopSequences = 64;
constexpr size_t kMaxStopSequenceTokens = 256;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Written so that NaN is out of every range.
absl::Status CheckRange(const char* field, float value, float least, float most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Invalid(field, " is ", value, "; it must be in [", least, ", ", most, "]");
}

absl::Status CheckRangeOpenBelow(const char* field, float value, float most) {
  if (value > 0 && value <= most) return absl::OkStatus();
  return Invalid(field, " is ", value, "; it must be in (0, ", most, "]");
}

absl::Status CheckCount(const char* field, size_t count, size_t most) {
  if (count <= most) return absl::OkStatus();
  return Invalid(field, " has ", count, " entries; at most ", most, " are allowed");
}

absl::Status CheckUtf8(const std::string& field, const std::string& text) {
  const size_t offset = FindInvalidUtf8(text);
  if (offset == std::string::npos) return absl::OkStatus();
  return Invalid(field, " is not UTF-8: byte ", offset, " (",
                 absl::StrFormat("0x%02x", static_cast<unsigned char>(text[offset])),
                 ") does not begin a valid character");
}

absl::Status CheckTokenIds(const std::string& field, const std::vector<int32_t>& ids,
                           const ServedModel& model) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < model.vocabulary_size) continue;
    return Invalid(field, "[", i, "] is ", ids[i], "; token ids of model '", model.name,
                   "' are in [0, ", model.vocabulary_size, ")");
  }
  return absl::OkStatus();
}

absl::Status CheckName(const char* field, const std::string& name) {
  if (name.size() > kMaxNameBytes) {
    return Invalid(field, " has ", name.size(), " bytes; at most ", kMaxNameBytes, " are allowed");
  }
  return absl::OkStatus();
}

absl::Status CheckIdentity(const RequestSpec& spec) {
  RETURN_IF_ERROR(CheckName("request_id", spec.request_id));
  for (size_t i = 0; i < spec.request_id.size(); ++i) {
    const char c = spec.request_id[i];
    if (c >= ' ' && c <= '~') continue;
    return Invalid("request_id has byte ", absl::StrFormat("0x%02x", static_cast<unsigned char>(c)),
                   " at ", i, "; it must be printable ASCII");
  }
  RETURN_IF_ERROR(CheckName("tenant", spec.tenant));
  if (spec.priority < -kMaxPriority || spec.priority > kMaxPriority) {
    return Invalid("priority is ", spec.priority, "; it must be in [", -kMaxPriority, ", ",
                   kMaxPriority, "]");
  }
  if (spec.num_samples < 1 || spec.num_samples > kMaxSamples) {
    return Invalid("num_samples is ", spec.num_samples, "; it must be in [1, ", kMaxSamples, "]");
  }
  return absl::OkStatus();
}

absl::Status CheckServed(const RequestSpec& spec) {
  RETURN_IF_ERROR(CheckName("model", spec.model));
  RETURN_IF_ERROR(CheckName("adapter", spec.adapter));
  for (const std::string& name : spec.logits_processors) {
    RETURN_IF_ERROR(CheckName("logits_processors.name", name));
  }
  if (!spec.adapter.empty()) {
    return absl::NotFoundError(
        absl::StrCat("adapter '", spec.adapter, "' is not served: no adapter is; leave it empty"));
  }
  if (spec.has_response_format) {
    return absl::UnimplementedError("response_format is not served yet; leave it out");
  }
  if (!spec.logits_processors.empty()) {
    return absl::UnimplementedError(absl::StrCat("logits_processors[0] is '",
                                                 spec.logits_processors[0],
                                                 "': none is served yet; leave them out"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(const std::string& name,
                                                             const ServedModels& models) {
  if (models.empty()) {
    return absl::UnavailableError("no replica has been reached yet; retry in a moment");
  }
  if (name.empty() && models.size() == 1) return models.begin()->second;
  const std::string served = absl::StrJoin(
      models, ", ", [](std::string* out, const auto& entry) { out->append(entry.first); });
  if (name.empty()) return Invalid("model is empty and several are served; name one of: ", served);
  const auto found = models.find(name);
  if (found != models.end()) return found->second;
  return absl::NotFoundError(absl::StrCat("model '", name, "' is not served; served: ", served));
}

absl::Status CheckPrompt(const RequestSpec& spec, const ServedModel& model) {
  bool empty = true;
  for (size_t i = 0; i < spec.prompt.size(); ++i) {
    const PromptPart& part = spec.prompt[i];
    const std::string field = absl::StrCat("prompt[", i, "]");
    switch (part.kind) {
      case PromptPart::Kind::kUnset:
        return Invalid(field, " has no content; set text or token_ids");
      case PromptPart::Kind::kText:
        RETURN_IF_ERROR(CheckUtf8(absl::StrCat(field, ".text"), part.text));
        break;
      case PromptPart::Kind::kTokenIds:
        RETURN_IF_ERROR(CheckTokenIds(absl::StrCat(field, ".token_ids"), part.token_ids, model));
        break;
      case PromptPart::Kind::kEmbeddings:
        return absl::UnimplementedError(absl::StrCat(field, ".embeddings are not served yet"));
      case PromptPart::Kind::kMedia:
        return absl::UnimplementedError(absl::StrCat(field, ".media is not served yet"));
    }
    empty = empty && part.text.empty() && part.token_ids.empty();
  }
  if (empty) return Invalid("prompt is empty; give at least one character or token id");
  return absl::OkStatus();
}

absl::Status CheckBadWords(const RequestSpec::Sampling& sampling, const ServedModel& model) {
  const size_t words = sampling.bad_words.size() + sampling.bad_token_ids.size();
  if (words > kMaxBadWords) {
    // Behind a colon: the name of one tensor may take the place of these two.
    return Invalid("sampling.bad_words and bad_token_ids: ", words, " entries in all; at most ",
                   kMaxBadWords, " are allowed");
  }
  for (size_t i = 0; i < sampling.bad_words.size(); ++i) {
    const std::string field = absl::StrCat("sampling.bad_words[", i, "]");
    if (sampling.bad_words[i].empty()) return Invalid(field, " is empty");
    RETURN_IF_ERROR(CheckUtf8(field, sampling.bad_words[i]));
  }
  for (size_t i = 0; i < sampling.bad_token_ids.size(); ++i) {
    const std::string field = absl::StrCat("sampling.bad_token_ids[", i, "]");
    const size_t tokens = sampling.bad_token_ids[i].size();
    if (tokens == 0) return Invalid(field, " is empty");
    if (tokens > kMaxBadWordTokens) {
      return Invalid(field, " has ", tokens, " tokens; at most ", kMaxBadWordTokens,
                     " are allowed");
    }
    RETURN_IF_ERROR(CheckTokenIds(field + ".ids", sampling.bad_token_ids[i], model));
  }
  return absl::OkStatus();
}

absl::Status CheckTopPDecay(const RequestSpec::Sampling& sampling, const ServedModel& model) {
  RETURN_IF_ERROR(CheckRangeOpenBelow("sampling.top_p_decay", sampling.top_p_decay, 1));
  RETURN_IF_ERROR(CheckRangeOpenBelow("sampling.top_p_min", sampling.top_p_min, 1));
  const int32_t reset_id = sampling.top_p_reset_id.value_or(0);
  if (reset_id >= 0 && reset_id < model.vocabulary_size) return absl::OkStatus();
  return Invalid("sampling.top_p_reset_id is ", reset_id, "; token ids of model '", model.name,
                 "' are in [0, ", model.vocabulary_size, ")");
}

absl::Status CheckBeams(const RequestSpec& spec, const ServedModel& model) {
  const RequestSpec::Sampling& sampling = spec.sampling;
  const uint32_t most = std::min(kMaxBeamWidth, static_cast<uint32_t>(model.vocabulary_size));
  if (sampling.beam_width > most) {
    return Invalid("sampling.beam_width is ", sampling.beam_width, "; it must be in [0, ", most,
                   "]");
  }
  RETURN_IF_ERROR(CheckRange("sampling.length_penalty", sampling.length_penalty, -10, 10));
  RETURN_IF_ERROR(
      CheckRange("sampling.beam_diversity_rate", sampling.beam_diversity_rate, -100, 100));
  if (sampling.beam_width <= 1) return absl::OkStatus();
  if (spec.num_samples > 1) {
    return Invalid("num_samples is ", spec.num_samples, " and sampling.beam_width ",
                   sampling.beam_width, "; they exclude each other");
  }
  if (!spec.resume_token_ids.empty()) {
    return Invalid("resume_token_ids is set and sampling.beam_width is ", sampling.beam_width,
                   "; a search can't be resumed, start it again");
  }
  const uint32_t max_tokens =
      spec.stopping.max_tokens == 0 ? kDefaultMaxTokens : spec.stopping.max_tokens;
  const uint64_t output =
      uint64_t{sampling.beam_width} * max_tokens * (1 + spec.output.logprobs.value_or(0));
  if (output <= kMaxBeamOutput) return absl::OkStatus();
  return Invalid("sampling.beam_width * stopping.max_tokens * (1 + output.logprobs) is ", output,
                 "; it must be at most ", kMaxBeamOutput);
}

absl::Status CheckSampling(const RequestSpec::Sampling& sampling, const ServedModel& model) {
  RETURN_IF_ERROR(CheckRange("sampling.temperature", sampling.temperature, 0, 100));
  if (sampling.top_k > static_cast<uint32_t>(model.vocabulary_size)) {
    return Invalid("sampling.top_k is ", sampling.top_k, "; it must be in [0, ",
                   model.vocabulary_size, "], the vocabulary of model '", model.name, "'");
  }
  RETURN_IF_ERROR(CheckRangeOpenBelow("sampling.top_p", sampling.top_p, 1));
  RETURN_IF_ERROR(CheckRange("sampling.min_p", sampling.min_p, 0, 1));
  RETURN_IF_ERROR(
      CheckRangeOpenBelow("sampling.repetition_penalty", sampling.repetition_penalty, 100));
  RETURN_IF_ERROR(CheckRange("sampling.presence_penalty", sampling.presence_penalty, -100, 100));
  RETURN_IF_ERROR(CheckRange("sampling.frequency_penalty", sampling.frequency_penalty, -100, 100));
  RETURN_IF_ERROR(CheckCount("sampling.logit_bias", sampling.logit_bias.size(), kMaxLogitBiases));
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (id < 0 || id >= model.vocabulary_size) {
      return Invalid("sampling.logit_bias names token id ", id, "; token ids of model '",
                     model.name, "' are in [0, ", model.vocabulary_size, ")");
    }
    RETURN_IF_ERROR(
        CheckRange(absl::StrCat("sampling.logit_bias[", id, "]").c_str(), bias, -100, 100));
  }
  RETURN_IF_ERROR(CheckTopPDecay(sampling, model));
  return CheckBadWords(sampling, model);
}

absl::Status CheckStopSequences(const RequestSpec::Stopping& stopping, const ServedModel& model) {
  RETURN_IF_ERROR(CheckCount("stopping.stop_token_sequences", stopping.stop_token_sequences.size(),
                             kMaxStopSequences));
  for (size_t i = 0; i < stopping.stop_token_sequences.size(); ++i) {
    const std::string field = absl::StrCat("stopping.stop_token_sequences[", i, "]");
    const std::vector<int32_t>& ids = stopping.stop_token_sequences[i];
    if (ids.empty()) return Invalid(field, " is empty");
    RETURN_IF_ERROR(CheckCount(field.c_str(), ids.size(), kMaxStopSequenceTokens));
    RETURN_IF_ERROR(CheckTokenIds(field + ".ids", ids, model));
  }
  return absl::OkStatus();
}

absl::Status CheckStopping(const RequestSpec& spec, const ServedModel& model) {
  const RequestSpec::Stopping& stopping = spec.stopping;
  const uint32_t max_tokens = stopping.max_tokens == 0 ? kDefaultMaxTokens : stopping.max_tokens;
  if (max_tokens > static_cast<uint32_t>(model.max_context_tokens) && stopping.max_tokens != 0) {
    return Invalid("stopping.max_tokens is ", max_tokens, "; the context of model '", model.name,
                   "' holds ", model.max_context_tokens, " tokens, prompt included");
  }
  if (stopping.min_tokens > max_tokens) {
    return Invalid("stopping.min_tokens is ", stopping.min_tokens,
                   "; it must be at most max_tokens, which is ", max_tokens);
  }
  RETURN_IF_ERROR(
      CheckCount("stopping.stop_token_ids", stopping.stop_token_ids.size(), kMaxStopTokens));
  RETURN_IF_ERROR(CheckTokenIds("stopping.stop_token_ids", stopping.stop_token_ids, model));
  RETURN_IF_ERROR(CheckStopSequences(stopping, model));
  RETURN_IF_ERROR(
      CheckCount("stopping.stop_strings", stopping.stop_strings.size(), kMaxStopStrings));
  for (size_t i = 0; i < stopping.stop_strings.size(); ++i) {
    const std::string field = absl::StrCat("stopping.stop_strings[", i, "]");
    const std::string& text = stopping.stop_strings[i];
    if (text.empty()) return Invalid(field, " is empty");
    if (text.size() > kMaxStopStringBytes) {
      return Invalid(field, " has ", text.size(), " bytes; at most ", kMaxStopStringBytes,
                     " are allowed");
    }
    RETURN_IF_ERROR(CheckUtf8(field, text));
  }
  if (spec.resume_token_ids.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckTokenIds("resume_token_ids", spec.resume_token_ids, model));
  if (spec.resume_token_ids.size() >= max_tokens) {
    return Invalid("resume_token_ids has ", spec.resume_token_ids.size(),
                   " ids; they count as output, and stopping.max_tokens is ", max_tokens);
  }
  if (spec.num_samples > 1) {
    return Invalid("num_samples is ", spec.num_samples, "; only one sequence can be resumed");
  }
  if (!spec.sampling.seed.has_value() && spec.sampling.temperature > 0) {
    return Invalid("resume_token_ids needs sampling.seed: the one that Started reported");
  }
  return absl::OkStatus();
}

absl::Status CheckOutput(const RequestSpec& spec) {
  if (spec.output.logprobs.value_or(0) > kMaxTopLogprobs) {
    return Invalid("output.logprobs is ", *spec.output.logprobs, "; it must be in [0, ",
                   kMaxTopLogprobs, "]");
  }
  if (spec.output.no_text && !spec.stopping.stop_strings.empty()) {
    return Invalid("output.no_text and stopping.stop_strings exclude each other: stop strings are ",
                   "found in the text; use stop_token_ids");
  }
  if (spec.output.no_text && spec.output.echo_prompt) {
    return Invalid("output.no_text and output.echo_prompt exclude each other");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ValidatedRequest> ValidatedRequest::Make(RequestSpec spec,
                                                        const ServedModels& models) {
  RETURN_IF_ERROR(CheckIdentity(spec));
  RETURN_IF_ERROR(CheckServed(spec));
  ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, FindModel(spec.model, models));
  if (model->vocabulary_size == 0) {
    return absl::UnavailableError(
        absl::StrCat("model '", model->name, "' is not loaded: unloaded"));
  }
  RETURN_IF_ERROR(CheckPrompt(spec, *model));
  RETURN_IF_ERROR(CheckSampling(spec.sampling, *model));
  RETURN_IF_ERROR(CheckStopping(spec, *model));
  RETURN_IF_ERROR(CheckOutput(spec));
  RETURN_IF_ERROR(CheckBeams(spec, *model));
  if (!spec.sampling.seed.has_value()) spec.sampling.seed = RandomId();
  if (spec.request_id.empty()) spec.request_id = MakeRequestId();
  return ValidatedRequest(std::move(spec), std::move(model));
}

absl::StatusOr<int32_t> ValidatedRequest::MaxTokensAfter(size_t prompt_tokens) const {
  if (prompt_tokens == 0) return Invalid("prompt has no tokens; give at least one");
  const auto context = static_cast<size_t>(model_->max_context_tokens);
  const size_t most = std::min(static_cast<size_t>(model_->max_prompt_tokens), context - 1);
  const size_t with_resumed = prompt_tokens + spec_.resume_token_ids.size();
  if (with_resumed > most) {
    return Invalid("prompt has ", with_resumed, " tokens, model '", model_->name, "' takes ", most,
                   "; shorten it");
  }
  const size_t left = context - prompt_tokens;
  const uint32_t max_tokens = spec_.stopping.max_tokens;
  if (max_tokens == 0) return static_cast<int32_t>(std::min<size_t>(kDefaultMaxTokens, left));
  if (max_tokens <= left) return static_cast<int32_t>(max_tokens);
  return Invalid("stopping.max_tokens is ", max_tokens, "; the prompt has ", prompt_tokens,
                 " tokens and the context of model '", model_->name, "' holds ", context,
                 ", so at most ", left, " can follow");
}

int32_t ValidatedRequest::burst_tokens() const {
  if (!has_beams()) return 0;
  const uint32_t max_tokens = spec_.stopping.max_tokens;
  return static_cast<int32_t>(spec_.sampling.beam_width *
                              (max_tokens == 0 ? kDefaultMaxTokens : max_tokens));
}

std::string MakeRequestId() { return absl::StrFormat("req-%016x", RandomId()); }

}  // namespace caravan
