#include "gateway/triton/http/http_infer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/http/generate_json.h"
#include "gateway/triton/http/http_error.h"
#include "gateway/triton/http/json_text.h"

namespace caravan {
namespace {

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
  while (inference_->HasNext()) {
    absl::StatusOr<InferResponse> response = inference_->Next();
    if (!response.ok()) {
      Fail(response.status());
      return Finish();
    }
    if (form_ != InferForm::kGenerateStream) {
      Answer(*std::move(response));
      return Finish();
    }
    // An empty last response tells a client of gRPC that its stream is at the end; this one ends.
    if (!response->outputs.empty()) return AnswerEvent(*std::move(response));
  }
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

void HttpInfer::AnswerEvent(InferResponse response) {
  writing_ = true;
  if (!std::exchange(streaming_, true)) {
    HttpResponse head;
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers.push_back({"Cache-Control", "no-cache"});
    exchange_->BeginStream(std::move(head));
  }
  exchange_->Post([self = shared_from_this(), response = std::move(response)] {
    const auto json = WriteGenerate(response);
    const std::string text =
        json.ok() ? ToText(*json) : ErrorJson(std::string(json.status().message()));
    // Refused only where the client is gone, which WhenGone tells.
    self->exchange_->Write(Event(text)).IgnoreError();
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
