#include "gateway/generation/prompt_encoding.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/status.h"

namespace caravan {
namespace {

void SetWorkerSampling(const ValidatedRequest& request, const EncodedPrompt& prompt,
                       const Vocabulary& vocabulary, v1::WorkerSampling* out) {
  const RequestSpec::Sampling& sampling = request.spec().sampling;
  out->set_temperature(sampling.temperature);
  out->set_top_k(sampling.top_k);
  out->set_top_p(sampling.top_p);
  out->set_min_p(sampling.min_p);
  out->set_repetition_penalty(sampling.repetition_penalty);
  out->set_presence_penalty(sampling.presence_penalty);
  out->set_frequency_penalty(sampling.frequency_penalty);
  out->mutable_logit_bias()->insert(sampling.logit_bias.begin(), sampling.logit_bias.end());
  for (const std::vector<int32_t>& word : prompt.bad_words) {
    out->add_bad_words()->mutable_ids()->Assign(word.begin(), word.end());
  }
  const RequestSpec::Stopping& stopping = request.spec().stopping;
  std::vector<int32_t> stop_ids = stopping.stop_token_ids;
  if (!stopping.ignore_eos) {
    const std::vector<int32_t>& of_model = request.model().eos_token_ids;
    const std::vector<int32_t>& eos = of_model.empty() ? vocabulary.eos_token_ids : of_model;
    stop_ids.insert(stop_ids.end(), eos.begin(), eos.end());
  }
  std::sort(stop_ids.begin(), stop_ids.end());
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
  out->mutable_stop_token_ids()->Assign(stop_ids.begin(), stop_ids.end());
  out->set_min_tokens(stopping.min_tokens);
  out->set_max_tokens(static_cast<uint32_t>(prompt.max_tokens));
  const std::optional<uint32_t>& logprobs = request.spec().output.logprobs;
  out->set_num_logprobs(logprobs.has_value() ? static_cast<int32_t>(*logprobs) : -1);
  out->set_processed_logprobs(request.spec().output.processed_logprobs);
  out->set_seed(request.seed());
  out->set_top_p_decay(sampling.top_p_decay);
  out->set_top_p_min(sampling.top_p_min);
  if (sampling.top_p_reset_id.has_value()) out->set_top_p_reset_id(*sampling.top_p_reset_id);
  out->set_penalize_prompt(sampling.penalize_prompt);
  for (const std::vector<int32_t>& ids : stopping.stop_token_sequences) {
    out->add_stop_sequences()->mutable_ids()->Assign(ids.begin(), ids.end());
  }
  for (const std::vector<int32_t>& ids : prompt.stop_sequences) {
    out->add_stop_sequences()->mutable_ids()->Assign(ids.begin(), ids.end());
  }
}

// Of the bad words as the worker takes them, each text in both of its encodings.
absl::Status CheckBadWordTokens(const EncodedPrompt& prompt) {
  size_t tokens = 0;
  for (const std::vector<int32_t>& word : prompt.bad_words) tokens += word.size();
  if (tokens <= kMaxTokensOfBadWords) return absl::OkStatus();
  // Behind a colon: the names of one tensor may take the place of these two.
  return absl::InvalidArgumentError(absl::StrCat("sampling.bad_words and bad_token_ids: ", tokens,
                                                 " tokens in all; at most ", kMaxTokensOfBadWords,
                                                 " are allowed"));
}

}  // namespace

absl::Status CheckTexts(const RequestSpec& spec, const TokenizerBounds& bounds) {
  for (size_t i = 0; i < spec.prompt.size(); ++i) {
    if (spec.prompt[i].kind != PromptPart::Kind::kText) continue;
    RETURN_IF_ERROR(CheckText(absl::StrCat("prompt[", i, "].text"), spec.prompt[i].text, bounds));
  }
  for (size_t i = 0; i < spec.sampling.bad_words.size(); ++i) {
    RETURN_IF_ERROR(
        CheckText(absl::StrCat("sampling.bad_words[", i, "]"), spec.sampling.bad_words[i], bounds));
  }
  return absl::OkStatus();
}

v1::EncodeRequest MakeEncodeRequest(const RequestSpec& spec, const Vocabulary& vocabulary) {
  v1::EncodeRequest request;
  for (size_t i = 0; i < spec.prompt.size(); ++i) {
    const PromptPart& part = spec.prompt[i];
    if (part.kind != PromptPart::Kind::kText) continue;
    v1::EncodeInput* input = request.add_inputs();
    input->set_text(part.text);
    input->set_add_bos(i == 0 && !part.omit_bos && vocabulary.adds_bos);
    input->set_parse_special_tokens(part.parse_special_tokens);
    input->set_no_dummy_prefix(i > 0);
  }
  const auto add_words = [&](const std::vector<std::string>& words) {
    for (const std::string& word : words) {
      for (const bool no_dummy_prefix : {false, true}) {
        v1::EncodeInput* input = request.add_inputs();
        input->set_text(word);
        input->set_no_dummy_prefix(no_dummy_prefix);
      }
    }
  };
  add_words(spec.sampling.bad_words);
  if (spec.sampling.beam_width > 1) add_words(spec.stopping.stop_strings);
  return request;
}

absl::StatusOr<EncodedPrompt> AssemblePrompt(const ValidatedRequest& request,
                                             const v1::EncodeResponse& response) {
  const RequestSpec& spec = request.spec();
  for (const v1::EncodeOutput& output : response.outputs()) {
    for (const int32_t id : output.token_ids()) {
      if (id >= 0 && id < request.model().vocabulary_size) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "the tokenizer made token id ", id, " and model '", request.model().name, "' has ",
          request.model().vocabulary_size, " tokens: they do not belong together"));
    }
  }
  EncodedPrompt prompt;
  prompt.bad_words = spec.sampling.bad_token_ids;
  int next = 0;
  const auto take = [&]() -> std::vector<int32_t> {
    if (next >= response.outputs_size()) return {};
    const auto& ids = response.outputs(next++).token_ids();
    return {ids.begin(), ids.end()};
  };
  for (const PromptPart& part : spec.prompt) {
    const std::vector<int32_t> ids = part.kind == PromptPart::Kind::kText ? take() : part.token_ids;
    prompt.token_ids.insert(prompt.token_ids.end(), ids.begin(), ids.end());
  }
  for (size_t i = 0; i < 2 * spec.sampling.bad_words.size(); ++i) {
    prompt.bad_words.push_back(take());
    const size_t tokens = prompt.bad_words.back().size();
    if (tokens <= kMaxBadWordTokens) continue;
    return absl::InvalidArgumentError(absl::StrCat("sampling.bad_words[", i / 2, "] has ", tokens,
                                                   " tokens; at most ", kMaxBadWordTokens,
                                                   " are allowed"));
  }
  while (next < response.outputs_size()) prompt.stop_sequences.push_back(take());
  for (auto* words : {&prompt.bad_words, &prompt.stop_sequences}) {
    std::erase(*words, std::vector<int32_t>());
    std::sort(words->begin(), words->end());
    words->erase(std::unique(words->begin(), words->end()), words->end());
  }
  RETURN_IF_ERROR(CheckBadWordTokens(prompt));
  ASSIGN_OR_RETURN(prompt.max_tokens, request.MaxTokensAfter(prompt.token_ids.size()));
  return prompt;
}

std::optional<std::string> PromptText(const RequestSpec& spec) {
  std::string text;
  for (const PromptPart& part : spec.prompt) {
    if (part.kind != PromptPart::Kind::kText) return std::nullopt;
    text.append(part.text);
  }
  return text;
}

v1::WorkerSubmit MakeWorkerSubmit(const ValidatedRequest& request, const EncodedPrompt& prompt,
                                  const Vocabulary& vocabulary) {
  const RequestSpec& spec = request.spec();
  v1::WorkerSubmit submit;
  submit.set_request_id(spec.request_id);
  submit.set_traceparent(spec.traceparent);
  submit.set_model(request.model().name);
  submit.set_adapter(spec.adapter);
  auto* ids = submit.mutable_prompt_token_ids();
  ids->Assign(prompt.token_ids.begin(), prompt.token_ids.end());
  ids->Add(spec.resume_token_ids.begin(), spec.resume_token_ids.end());
  submit.set_num_resumed(static_cast<uint32_t>(spec.resume_token_ids.size()));
  SetWorkerSampling(request, prompt, vocabulary, submit.mutable_sampling());
  submit.set_num_samples(spec.num_samples);
  submit.set_beam_width(spec.sampling.beam_width);
  submit.set_length_penalty(spec.sampling.length_penalty);
  submit.set_beam_diversity_rate(spec.sampling.beam_diversity_rate);
  submit.set_beam_snapshot_interval(spec.sampling.beam_snapshot_interval);
  submit.set_beam_snapshot_offset(spec.sampling.beam_snapshot_offset);
  submit.set_priority(spec.priority);
  submit.set_cache_salt(CacheSalt(spec));
  return submit;
}

uint64_t CacheSalt(const RequestSpec& spec) {
  if (spec.tenant.empty() && spec.adapter.empty()) return 0;
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, 64 bits
  for (const std::string* name : {&spec.tenant, &spec.adapter}) {
    for (const char c : *name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    hash = (hash ^ 0xff) * 0x100000001b3;  // ends a name: no byte of UTF-8
  }
  return hash;
}

}  // namespace caravan
