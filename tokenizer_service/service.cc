#include "tokenizer_service/service.h"

#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/log.h"
#include "common/server.h"
#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

absl::Status WithPrefix(const std::string& prefix, const absl::Status& status) {
  return {status.code(), absl::StrCat(prefix, status.message())};
}

absl::Status CheckTextBytes(size_t size, int limit) {
  if (size <= static_cast<size_t>(limit)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(size, " bytes of text, the limit is ", limit,
                                                 " (--max_text_bytes); send it in parts"));
}

}  // namespace

TokenizerService::TokenizerService(const Tokenizer* tokenizer,
                                   absl::StatusOr<ChatFormat> chat_format,
                                   const TokenizerLimits& limits, TokenizerMetrics* metrics)
    : tokenizer_(tokenizer),
      chat_format_(std::move(chat_format)),
      limits_(limits),
      metrics_(metrics),
      long_requests_(limits.long_request_threads, limits.max_waiting_long_requests) {}

void TokenizerService::Drain() {
  std::lock_guard lock(calls_mutex_);
  is_draining_ = true;
  for (DecodeSessionReactor* session : sessions_) session->Drain();
}

void TokenizerService::AwaitCalls(absl::Time deadline) {
  std::unique_lock lock(calls_mutex_);
  calls_ended_.wait_until(lock, absl::ToChronoTime(deadline),
                          [this] { return sessions_.empty() && num_unary_calls_ == 0; });
}

grpc::ServerUnaryReactor* TokenizerService::Run(grpc::CallbackServerContext* context, Rpc rpc,
                                                size_t request_bytes, Handler handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  {
    std::lock_guard lock(calls_mutex_);
    ++num_unary_calls_;
  }
  auto finish = [=, this, begin = absl::Now()](const absl::Status& status) {
    double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    rpc.metrics->seconds.Observe(seconds);
    (status.ok() ? rpc.metrics->finished : rpc.metrics->refused).Increment();
    LogInfo("answered", {{"rpc", rpc.name},
                         {"request", MetadataOf(*context, kRequestIdKey)},
                         {"traceparent", MetadataOf(*context, kTraceparentKey)},
                         {"bytes", request_bytes},
                         {"ms", seconds * 1e3},
                         {"status", ToString(status)}});
    reactor->Finish(ToGrpcStatus(status));
    std::lock_guard lock(calls_mutex_);
    --num_unary_calls_;
    calls_ended_.notify_all();
  };
  if (request_bytes <= static_cast<size_t>(limits_.long_request_bytes)) {
    finish(handler());
    return reactor;
  }
  bool taken = long_requests_.TryPost([=, handler = std::move(handler)] {
    bool left = context->IsCancelled();
    finish(left ? absl::CancelledError("the client left before its request ran") : handler());
  });
  if (!taken) {
    finish(absl::ResourceExhaustedError(
        absl::StrCat(limits_.max_waiting_long_requests, " long requests are waiting; try later")));
  }
  return reactor;
}

grpc::ServerUnaryReactor* TokenizerService::Encode(grpc::CallbackServerContext* context,
                                                   const v1::EncodeRequest* request,
                                                   v1::EncodeResponse* response) {
  size_t bytes = 0;
  for (const v1::EncodeInput& input : request->inputs()) bytes += input.text().size();
  return Run(context, {"Encode", &metrics_->encode}, bytes,
             [=, this] { return EncodeBatch(*request, *response); });
}

grpc::ServerUnaryReactor* TokenizerService::Decode(grpc::CallbackServerContext* context,
                                                   const v1::DecodeRequest* request,
                                                   v1::DecodeResponse* response) {
  return Run(context, {"Decode", &metrics_->decode}, request->ByteSizeLong(),
             [=, this] { return DecodeBatch(*request, *response); });
}

grpc::ServerUnaryReactor* TokenizerService::ApplyChatTemplate(
    grpc::CallbackServerContext* context, const v1::ApplyChatTemplateRequest* request,
    v1::ApplyChatTemplateResponse* response) {
  return Run(context, {"ApplyChatTemplate", &metrics_->apply_chat_template},
             request->ByteSizeLong(), [=, this] { return EncodeChat(*request, *response); });
}

grpc::ServerUnaryReactor* TokenizerService::GetVocabulary(grpc::CallbackServerContext* context,
                                                          const v1::GetVocabularyRequest* request,
                                                          v1::GetVocabularyResponse* response) {
  return Run(context, {"GetVocabulary", &metrics_->get_vocabulary}, 0, [=, this] {
    DescribeVocabulary(request->include_tokens(), *response);
    return absl::OkStatus();
  });
}

grpc::ServerBidiReactor<v1::DecodeSessionRequest, v1::DecodeSessionResponse>*
TokenizerService::DecodeSession(grpc::CallbackServerContext* context) {
  std::lock_guard lock(calls_mutex_);
  auto* session = new DecodeSessionReactor(&tokenizer_->vocabulary(), limits_, metrics_,
                                           [this](DecodeSessionReactor* done) {
                                             std::lock_guard lock(calls_mutex_);
                                             sessions_.erase(done);
                                             calls_ended_.notify_all();
                                           });
  sessions_.insert(session);
  if (is_draining_) session->Drain();
  return session;
}

absl::Status TokenizerService::CheckBatchSize(int num_inputs) const {
  if (num_inputs <= limits_.max_batch_inputs) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("inputs has ", num_inputs, " elements, the limit is ", limits_.max_batch_inputs,
                   " (--max_batch_inputs)"));
}

absl::Status TokenizerService::EncodeBatch(const v1::EncodeRequest& request,
                                           v1::EncodeResponse& response) {
  RETURN_IF_ERROR(CheckBatchSize(request.inputs_size()));
  for (int i = 0; i < request.inputs_size(); ++i) {
    const v1::EncodeInput& input = request.inputs(i);
    EncodeOptions options;
    options.add_bos = input.add_bos();
    options.add_eos = input.add_eos();
    options.parse_special_tokens = input.parse_special_tokens();
    options.no_dummy_prefix = input.no_dummy_prefix();
    absl::Status size = CheckTextBytes(input.text().size(), limits_.max_text_bytes);
    auto ids = size.ok() ? tokenizer_->Encode(input.text(), options) : size;
    if (absl::IsInvalidArgument(ids.status())) {
      return WithPrefix(absl::StrCat("inputs[", i, "].text: "), ids.status());
    }
    if (!ids.ok()) return WithPrefix(absl::StrCat("inputs[", i, "]."), ids.status());
    response.add_outputs()->mutable_token_ids()->Add(ids->begin(), ids->end());
    metrics_->encoded_bytes.Increment(static_cast<double>(input.text().size()));
    metrics_->encoded_tokens.Increment(static_cast<double>(ids->size()));
  }
  return absl::OkStatus();
}

absl::Status TokenizerService::DecodeBatch(const v1::DecodeRequest& request,
                                           v1::DecodeResponse& response) {
  RETURN_IF_ERROR(CheckBatchSize(request.inputs_size()));
  int64_t num_ids = 0;
  for (const v1::DecodeInput& input : request.inputs()) num_ids += input.token_ids_size();
  if (num_ids > limits_.max_decode_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs has ", num_ids, " token ids in all, the limit is ",
                     limits_.max_decode_tokens, " (--max_decode_tokens)"));
  }
  for (int i = 0; i < request.inputs_size(); ++i) {
    const v1::DecodeInput& input = request.inputs(i);
    auto text = tokenizer_->Decode(input.token_ids(), input.keep_special_tokens());
    if (!text.ok()) return WithPrefix(absl::StrCat("inputs[", i, "]."), text.status());
    response.add_texts(*std::move(text));
  }
  metrics_->decoded_tokens.Increment(static_cast<double>(num_ids));
  return absl::OkStatus();
}

absl::StatusOr<ChatFormat> TokenizerService::FormatOf(const std::string& name) const {
  if (name.empty() || name == "auto") return chat_format_;
  return ParseChatFormat(FindInvalidUtf8(name) == std::string::npos ? name : "not UTF-8");
}

absl::Status TokenizerService::EncodeChat(const v1::ApplyChatTemplateRequest& request,
                                          v1::ApplyChatTemplateResponse& response) {
  ASSIGN_OR_RETURN(ChatFormat format, FormatOf(request.format()));
  std::vector<ChatTurn> turns;
  size_t num_bytes = 0;
  for (const v1::ChatMessage& message : request.messages()) {
    turns.push_back({message.role(), message.content()});
    num_bytes += message.content().size();
  }
  absl::Status size = CheckTextBytes(num_bytes, limits_.max_text_bytes);
  if (!size.ok()) return WithPrefix("messages: ", size);
  ASSIGN_OR_RETURN(
      ChatPrompt prompt,
      ApplyChatFormat(format, turns, request.add_generation_prompt(), tokenizer_->vocabulary()));
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer_->EncodeParts(prompt.parts));
  metrics_->encoded_bytes.Increment(static_cast<double>(prompt.text.size()));
  metrics_->encoded_tokens.Increment(static_cast<double>(ids.size()));
  response.mutable_token_ids()->Add(ids.begin(), ids.end());
  response.set_text(std::move(prompt.text));
  for (std::string& stop : prompt.stop_strings) response.add_stop_strings(std::move(stop));
  return absl::OkStatus();
}

void TokenizerService::DescribeVocabulary(bool include_tokens,
                                          v1::GetVocabularyResponse& response) const {
  const Vocabulary& vocabulary = tokenizer_->vocabulary();
  response.set_size(vocabulary.size());
  response.set_bos_token_id(vocabulary.bos_id);
  response.mutable_eos_token_ids()->Add(vocabulary.eos_ids.begin(), vocabulary.eos_ids.end());
  response.set_unk_token_id(vocabulary.unk_id);
  response.set_kind(vocabulary.kind);
  response.set_fingerprint(vocabulary.fingerprint);
  response.set_adds_bos(vocabulary.adds_bos);
  response.set_adds_eos(vocabulary.adds_eos);
  response.set_max_text_bytes(static_cast<uint32_t>(limits_.max_text_bytes));
  response.set_max_batch_inputs(static_cast<uint32_t>(limits_.max_batch_inputs));
  response.set_max_decode_tokens(static_cast<uint32_t>(limits_.max_decode_tokens));
  response.set_max_message_bytes(static_cast<uint32_t>(limits_.max_message_bytes));
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const Vocabulary::Token& token = vocabulary.tokens[id];
    if (token.special) response.add_special_token_ids(id);
    if (!include_tokens) continue;
    response.add_tokens(token.bytes);
    if (vocabulary.has_dummy_prefix && token.begins_word) response.add_word_token_ids(id);
  }
}

}  // namespace caravan
