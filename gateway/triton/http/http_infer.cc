#include "gateway/triton/http/http_infer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/http/generate_json.h"
#include "gateway/triton/http/http_error.h"
#include "gateway/triton/http/json_text.h"

namespace caravan {
namespace {

// What has come while the last events were written goes out together, in pieces of about this size.
constexpr size_t kMaxBytesAtOnce = 16 << 10;

size_t BytesOf(const InferResponse& response) {
  size_t bytes = 256;  // names and frames
  for (const InferOutput& output : response.outputs) bytes += output.data.size();
  return bytes;
}

std::string Event(std::string_view json) {
  return absl::StrCat("data: ", std::string(json), "\n\n");
}

}  // namespace

HttpInfer::HttpInfer(EventLoop* loop, InferenceServer* server,
                     std::shared_ptr<HttpExchange> exchange, InferForm form, OutputForm output_form)
    : loop_(loop),
      server_(server),
      exchange_(std::move(exchange)),
      form_(form),
      output_form_(std::move(output_form)) {}

void HttpInfer::Start(InferRequest request) {
  request.streaming = form_ == InferForm::kGenerateStream;
  loop_->Post([self = shared_from_this(), request = std::move(request)]() mutable {
    self->Begin(std::move(request));
  });
}

void HttpInfer::Begin(InferRequest request) {
  absl::StatusOr<std::shared_ptr<Inference>> inference = server_->Infer(std::move(request), this);
  if (!inference.ok()) return exchange_->Respond(MakeErrorResponse(inference.status()));
  inference_ = *std::move(inference);
  self_ = shared_from_this();
  // These are told on the server's threads, and hold no more than the call.
  exchange_->WhenGone([self = self_] { self->loop_->Post([self] { self->OnGone(); }); });
  if (form_ == InferForm::kGenerateStream) {
    exchange_->WhenDrained([self = self_] { self->loop_->Post([self] { self->OnDrained(); }); });
  }
  Advance();
}

void HttpInfer::OnInferReady() { Advance(); }

void HttpInfer::Advance() {
  if (inference_ == nullptr || writing_) return;
  std::vector<InferResponse> events;
  size_t event_bytes = 0;
  while (inference_->HasNext() && event_bytes < kMaxBytesAtOnce) {
    absl::StatusOr<InferResponse> response = inference_->Next();
    if (!response.ok() && !events.empty()) break;  // status() says it later
    if (!response.ok()) {
      Fail(response.status());
      return Finish();
    }
    if (form_ != InferForm::kGenerateStream) {
      Answer(*std::move(response));
      return Finish();
    }
    // An empty last response tells a client of gRPC that its stream is at the end; this one ends.
    if (response->outputs.empty()) continue;
    event_bytes += BytesOf(*response);
    events.push_back(*std::move(response));
  }
  if (!events.empty()) return AnswerEvents(std::move(events));
  if (!inference_->ended()) return;
  if (!inference_->status().ok()) {
    Fail(inference_->status());
  } else if (streaming_) {
    exchange_->EndStream("");
  } else {
    Fail(absl::InternalError("the model made no response"));
  }
  Finish();
}

void HttpInfer::Answer(InferResponse response) {
  exchange_->Post([self = shared_from_this(), response = std::move(response)] {
    absl::StatusOr<HttpResponse> answer = HttpResponse();
    if (self->form_ == InferForm::kInfer) {
      answer = WriteInfer(response, self->output_form_);
    } else if (const auto json = WriteGenerate(response); json.ok()) {
      answer->content_type = "application/json";
      answer->body = ToText(*json);
    } else {
      answer = json.status();
    }
    self->exchange_->Respond(answer.ok() ? *std::move(answer) : MakeErrorResponse(answer.status()));
  });
}

void HttpInfer::AnswerEvents(std::vector<InferResponse> events) {
  writing_ = true;
  if (!std::exchange(streaming_, true)) {
    HttpResponse head;
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers.push_back({"Cache-Control", "no-cache"});
    exchange_->BeginStream(std::move(head));
  }
  exchange_->Post([self = shared_from_this(), events = std::move(events)] {
    std::string text;
    for (const InferResponse& response : events) {
      const auto json = WriteGenerate(response);
      text.append(
          Event(json.ok() ? ToText(*json) : ErrorJson(std::string(json.status().message()))));
    }
    // Refused only where the client is gone, which WhenGone tells.
    self->exchange_->Write(text).IgnoreError();
  });
}

void HttpInfer::Fail(const absl::Status& status) {
  if (!streaming_) return exchange_->Respond(MakeErrorResponse(status));
  exchange_->EndStream(Event(ErrorJson(std::string(status.message()))));
}

void HttpInfer::OnDrained() {
  writing_ = false;
  Advance();
}

void HttpInfer::OnGone() {
  if (inference_ != nullptr) inference_->Cancel();
  Finish();
}

void HttpInfer::Finish() {
  inference_ = nullptr;
  self_ = nullptr;  // may be the last to hold this
}

}  // namespace caravan
