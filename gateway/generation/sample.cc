#include "gateway/generation/sample.h"

#include <algorithm>
#include <utility>

#include "common/status.h"

namespace caravan {
namespace {

// What a decoder needs of the prompt to go on exactly: whether anything precedes, and the bytes of
// an unfinished character.
constexpr size_t kContextTokens = 64;

OutputToken TokenAt(const v1::WorkerTokenEvent& event, int i) {
  OutputToken token;
  token.id = event.token_ids(i);
  if (i < event.logprobs_size()) token.logprob = event.logprobs(i);
  if (i < event.top_logprobs_size()) {
    const v1::WorkerTopLogprobs& top = event.top_logprobs(i);
    const int count = std::min(top.token_ids_size(), top.logprobs_size());
    for (int k = 0; k < count; ++k)
      token.top_logprobs.emplace_back(top.token_ids(k), top.logprobs(k));
  }
  return token;
}

}  // namespace

Sample::Sample(int index, const ValidatedRequest* request, TokenizerClient* tokenizer, Owner* owner)
    : index_(index),
      request_(request),
      tokenizer_(tokenizer),
      owner_(owner),
      matcher_(request->spec().stopping.stop_strings) {}

Sample::~Sample() { Abort(); }

void Sample::Begin(const std::vector<int32_t>& prompt_token_ids, std::string echo) {
  const RequestSpec& spec = request_->spec();
  token_ids_ = spec.resume_token_ids;
  num_delivered_ = static_cast<int32_t>(token_ids_.size());
  if (spec.output.no_text) return;
  if (token_ids_.empty()) echo_ = std::move(echo);
  const size_t context = std::min(prompt_token_ids.size(), kContextTokens);
  decode_ = tokenizer_->Open(
      {prompt_token_ids.end() - static_cast<ptrdiff_t>(context), prompt_token_ids.end()},
      spec.output.keep_special_tokens, this);
  resumed_undecoded_ = token_ids_.size();
  for (const int32_t id : token_ids_) tokenizer_->Append(decode_, id);
}

int Sample::OnEvent(const v1::WorkerTokenEvent& event) {
  if (ended_) return 0;
  if (worker_finished()) return std::max(1, event.token_ids_size());
  if (event.cached_prompt_tokens() > 0) {
    cached_prompt_tokens_ = static_cast<int32_t>(event.cached_prompt_tokens());
  }
  cumulative_logprob_ = event.cumulative_logprob();
  const RequestSpec& spec = request_->spec();
  int num_stale = 0;
  for (int i = 0; i < event.token_ids_size() && !ended_; ++i) {
    const size_t position = event.first_position() + static_cast<size_t>(i);
    if (position < token_ids_.size()) {
      ++num_stale;
      continue;
    }
    if (position > token_ids_.size()) {
      owner_->OnSampleFailed(
          absl::InternalError(absl::StrCat("the worker skipped tokens: position ", position,
                                           " came after ", token_ids_.size(), " tokens")));
      return num_stale;
    }
    OutputToken token = TokenAt(event, i);
    const bool is_stop =
        event.finish() == v1::WorkerTokenEvent::STOP_TOKEN && i + 1 == event.token_ids_size();
    const bool shown = spec.stopping.include_stop ||
                       (spec.output.keep_special_tokens &&
                        tokenizer_->vocabulary()->special_token_ids.contains(token.id));
    const bool hidden = is_stop && !shown;  // then nothing decodes it
    if (decode_ != 0 && !hidden && token.id >= tokenizer_->vocabulary()->size) {
      owner_->OnSampleFailed(absl::FailedPreconditionError(absl::StrCat(
          "the model drew token id ", token.id, " and the tokenizer has ids from 0 to ",
          tokenizer_->vocabulary()->size - 1, ": they may not belong together")));
      return num_stale;
    }
    token_ids_.push_back(token.id);
    Accept(std::move(token), hidden);
  }
  if (!ended_ && event.finish() != v1::WorkerTokenEvent::NONE) OnWorkerFinish(event);
  return num_stale;
}

void Sample::Accept(OutputToken token, bool hide_text) {
  if (decode_ == 0) {
    Emit(std::move(token), "");
  } else if (hide_text) {
    hidden_stop_ = std::move(token);
  } else {
    const int32_t id = token.id;
    undecoded_.push_back(std::move(token));
    tokenizer_->Append(decode_, id);
  }
}

void Sample::OnWorkerFinish(const v1::WorkerTokenEvent& event) {
  switch (event.finish()) {
    case v1::WorkerTokenEvent::STOP_TOKEN:
      worker_finish_ = {EndReason::kStopToken, token_ids_.empty() ? 0 : token_ids_.back()};
      break;
    case v1::WorkerTokenEvent::STOP_SEQUENCE:
      worker_finish_ = {EndReason::kStopString, 0};
      break;
    case v1::WorkerTokenEvent::CANCELLED:
      return owner_->OnSampleFailed(absl::CancelledError("the worker cancelled the request"));
    case v1::WorkerTokenEvent::DEADLINE:
      return owner_->OnSampleFailed(absl::DeadlineExceededError(
          event.message().empty() ? "the request's deadline passed" : event.message()));
    case v1::WorkerTokenEvent::ERROR:
      return owner_->OnSampleFailed(absl::Status(event.code() == 0
                                                     ? absl::StatusCode::kInternal
                                                     : static_cast<absl::StatusCode>(event.code()),
                                                 event.message()));
    default:
      worker_finish_ = {EndReason::kLength, 0};
  }
  if (decode_ != 0) {
    tokenizer_->Close(decode_);
  } else {
    End(worker_finish_->reason);
  }
}

void Sample::OnDecoded(size_t num_tokens, std::string text) {
  if (resumed_undecoded_ > 0) {
    resumed_undecoded_ -= std::min(resumed_undecoded_, num_tokens);
    const StopStringMatcher::Result result = matcher_.Feed(text);
    if (result.matched >= 0) EndAtStopString(result.matched);
    return;
  }
  if (num_tokens > undecoded_.size()) {
    return owner_->OnSampleFailed(
        absl::InternalError("the tokenizer answered for more tokens than it was given"));
  }
  while (num_tokens > 1) {
    --num_tokens;
    OutputToken token = std::move(undecoded_.front());
    undecoded_.pop_front();
    if (!Emit(std::move(token), "")) return;
  }
  std::optional<OutputToken> token;
  if (num_tokens == 1) {
    token = std::move(undecoded_.front());
    undecoded_.pop_front();
  }
  const int32_t min_tokens = static_cast<int32_t>(request_->spec().stopping.min_tokens);
  StopStringMatcher::Result result = matcher_.Feed(text, num_delivered_ < min_tokens);
  if (result.matched >= 0 && request_->spec().stopping.include_stop) {
    result.released += matcher_.stop_string(result.matched);
  }
  if (!Emit(std::move(token), std::move(result.released))) return;
  if (result.matched >= 0) EndAtStopString(result.matched);
}

void Sample::OnDecodeClosed(std::string text) {
  decode_ = 0;
  const int32_t min_tokens = static_cast<int32_t>(request_->spec().stopping.min_tokens);
  StopStringMatcher::Result result = matcher_.Feed(text, num_delivered_ < min_tokens);
  if (result.matched >= 0) {
    if (request_->spec().stopping.include_stop) {
      result.released += matcher_.stop_string(result.matched);
    }
    if (Emit(std::nullopt, std::move(result.released))) EndAtStopString(result.matched);
    return;
  }
  result.released += matcher_.Flush();
  if (hidden_stop_.has_value() || !result.released.empty()) {
    if (!Emit(std::exchange(hidden_stop_, std::nullopt), std::move(result.released))) return;
  }
  End(worker_finish_->reason);
}

void Sample::OnDecodeError(const absl::Status& status) {
  decode_ = 0;
  owner_->OnSampleFailed(status);
}

bool Sample::Emit(std::optional<OutputToken> token, std::string text) {
  OutputChunk chunk;
  chunk.sample_index = index_;
  chunk.position = num_delivered_;
  chunk.has_token = token.has_value();
  if (token.has_value()) {
    chunk.token = *std::move(token);
    ++num_delivered_;
  }
  chunk.text = echo_.empty() ? std::move(text) : std::exchange(echo_, {}) + text;
  return owner_->OnSampleChunk(std::move(chunk)) && !ended_;
}

void Sample::EndAtStopString(int matched) {
  End(EndReason::kStopString, matcher_.stop_string(matched));
}

void Sample::End(EndReason reason, std::string stop_string) {
  Abort();
  SampleEnd end;
  end.sample_index = index_;
  end.reason = reason;
  end.stop_string = std::move(stop_string);
  if (reason == EndReason::kStopToken) end.stop_token_id = worker_finish_->stop_token_id;
  end.generated_tokens = num_delivered_;
  end.cached_prompt_tokens = cached_prompt_tokens_;
  end.cumulative_logprob = cumulative_logprob_;
  owner_->OnSampleEnded(std::move(end));
}

void Sample::Abort() {
  ended_ = true;
  if (decode_ != 0) tokenizer_->Drop(std::exchange(decode_, 0));
}

}  // namespace caravan
