#include "tokenizer_service/decode_session.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace caravan {
namespace {

absl::Status NotOpen(uint64_t sequence) {
  return absl::NotFoundError(absl::StrCat("sequence ", sequence, " is not open"));
}

uint64_t SequenceOf(const v1::DecodeSessionRequest& request) {
  if (request.has_open()) return request.open().sequence();
  if (request.has_append()) return request.append().sequence();
  return request.close().sequence();  // 0 where it is none of them
}

}  // namespace

bool DecodeSequences::Handle(const v1::DecodeSessionRequest& request,
                             v1::DecodeSessionResponse& response) {
  if (!request.has_batch()) return HandleOne(request, response);
  for (const v1::DecodeSessionRequest& message : request.batch().messages()) {
    if (!HandleOne(message, *response.add_batch())) response.mutable_batch()->RemoveLast();
  }
  return !response.batch().empty();
}

bool DecodeSequences::HandleOne(const v1::DecodeSessionRequest& request,
                                v1::DecodeSessionResponse& response) {
  absl::Status status;
  switch (request.message_case()) {
    case v1::DecodeSessionRequest::kOpen:
      status = Open(request.open());
      if (status.ok()) return false;
      break;
    case v1::DecodeSessionRequest::kAppend:
      status = Append(request.append(), response);
      break;
    case v1::DecodeSessionRequest::kClose:
      status = Close(request.close(), response);
      break;
    case v1::DecodeSessionRequest::kBatch:
      status = absl::InvalidArgumentError("a batch must hold no batch");
      break;
    case v1::DecodeSessionRequest::MESSAGE_NOT_SET:
      status = absl::InvalidArgumentError("a message must hold open, append or close");
      break;
  }
  response.set_sequence(SequenceOf(request));
  response.set_code(static_cast<int>(status.code()));
  if (!status.ok()) response.set_message(std::string(status.message()));
  return true;
}

absl::Status DecodeSequences::CheckIds(const google::protobuf::RepeatedField<int32_t>& ids) const {
  if (ids.size() > limits_.max_decode_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the message has ", ids.size(), " token ids, the limit is ", limits_.max_decode_tokens));
  }
  return vocabulary_->CheckIds(ids);
}

absl::Status DecodeSequences::Open(const v1::DecodeOpen& open) {
  if (decoders_.count(open.sequence()) > 0) {
    return absl::AlreadyExistsError(absl::StrCat("sequence ", open.sequence(), " is open already"));
  }
  if (decoders_.size() >= static_cast<size_t>(limits_.max_session_sequences)) {
    return absl::ResourceExhaustedError(absl::StrCat("the session has ", decoders_.size(),
                                                     " open sequences, the limit; close some"));
  }
  RETURN_IF_ERROR(CheckIds(open.context_token_ids()));
  StreamDecoder decoder(vocabulary_, open.keep_special_tokens());
  decoder.Skip(open.context_token_ids());
  decoders_.emplace(open.sequence(), decoder);
  return absl::OkStatus();
}

absl::Status DecodeSequences::Append(const v1::DecodeAppend& append,
                                     v1::DecodeSessionResponse& response) {
  auto decoder = decoders_.find(append.sequence());
  if (decoder == decoders_.end()) return NotOpen(append.sequence());
  RETURN_IF_ERROR(CheckIds(append.token_ids()));
  decoder->second.Append(append.token_ids(), *response.mutable_text());
  response.set_num_tokens(append.token_ids_size());
  return absl::OkStatus();
}

absl::Status DecodeSequences::Close(const v1::DecodeClose& close,
                                    v1::DecodeSessionResponse& response) {
  auto decoder = decoders_.find(close.sequence());
  if (decoder == decoders_.end()) return NotOpen(close.sequence());
  decoder->second.Flush(*response.mutable_text());
  decoders_.erase(decoder);
  response.set_closed(true);
  return absl::OkStatus();
}

DecodeSessionReactor::DecodeSessionReactor(const Vocabulary* vocabulary,
                                           const TokenizerLimits& limits, TokenizerMetrics* metrics,
                                           std::function<void(DecodeSessionReactor*)> on_done)
    : limits_(limits),
      metrics_(metrics),
      on_done_(std::move(on_done)),
      sequences_(vocabulary, limits) {
  metrics_->sessions.Increment();
  std::lock_guard lock(mutex_);
  Proceed();
}

void DecodeSessionReactor::OnReadDone(bool ok) {
  std::lock_guard lock(mutex_);
  is_reading_ = false;
  if (ok) {
    HandleRequest();
  } else {
    no_more_requests_ = true;
  }
  Proceed();
}

void DecodeSessionReactor::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  is_writing_ = false;
  responses_.pop_front();
  if (!ok) {  // the client is gone: nothing more can be sent
    no_more_requests_ = true;
    responses_.clear();
  }
  Proceed();
}

void DecodeSessionReactor::OnCancel() {
  std::lock_guard lock(mutex_);
  FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "the call was cancelled"));
}

void DecodeSessionReactor::OnDone() {
  metrics_->sessions.Decrement();
  metrics_->sequences.Decrement(static_cast<double>(sequences_.size()));
  on_done_(this);
  delete this;
}

void DecodeSessionReactor::Drain() {
  std::lock_guard lock(mutex_);
  is_draining_ = true;
  Proceed();
}

void DecodeSessionReactor::Count(const v1::DecodeSessionResponse& response) {
  if (response.code() != 0) metrics_->refused_session_messages.Increment();
  metrics_->decoded_tokens.Increment(response.num_tokens());
}

void DecodeSessionReactor::HandleRequest() {
  auto num_sequences = static_cast<double>(sequences_.size());
  v1::DecodeSessionResponse response;
  if (sequences_.Handle(request_, response)) {
    Count(response);
    for (const v1::DecodeSessionResponse& answer : response.batch()) Count(answer);
    responses_.push_back(std::move(response));
  }
  metrics_->sequences.Increment(static_cast<double>(sequences_.size()) - num_sequences);
}

// Starts whatever may be started; under mutex_.
void DecodeSessionReactor::Proceed() {
  if (is_finished_) return;
  if (!is_writing_ && !responses_.empty()) {
    is_writing_ = true;
    // Responses that wait behind this one leave in the same packet.
    grpc::WriteOptions options;
    if (responses_.size() > 1) options.set_buffer_hint();
    StartWrite(&responses_.front(), options);
  }
  if (responses_.empty() && no_more_requests_) return FinishOnce(grpc::Status::OK);
  if (responses_.empty() && is_draining_ && sequences_.size() == 0) {
    return FinishOnce(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the tokenizer is stopping"));
  }
  bool has_room = responses_.size() < static_cast<size_t>(limits_.max_session_queued_responses);
  if (!is_reading_ && !no_more_requests_ && has_room) {
    is_reading_ = true;
    StartRead(&request_);
  }
}

void DecodeSessionReactor::FinishOnce(const grpc::Status& status) {
  if (is_finished_) return;
  is_finished_ = true;
  Finish(status);
}

}  // namespace caravan
