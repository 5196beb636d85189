#include "gateway/native/generate_reactor.h"

#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"
#include "gateway/grpc_call.h"

namespace caravan {
namespace {

// The call of a request that validation refused.
class Refusal : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit Refusal(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

GenerateReactor::GenerateReactor(const NativeContext* native, grpc::CallbackServerContext* call)
    : native_(native), call_(call), keep_alive_(native->loop) {
  native_->metrics->open_calls.Increment();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateReactor::Start(
    const NativeContext* native, grpc::CallbackServerContext* call, const grpc::ByteBuffer& bytes) {
  v1::GenerateRequest message;
  const CallInfo call_info = CallInfoOf(*call);
  grpc::ByteBuffer plain = bytes;
  absl::Status parsed = Decompress(native->max_message_bytes, &plain);
  if (parsed.ok()) parsed = Parse(plain, &message);
  if (!parsed.ok()) {
    CountRefusal(*native, call_info.request_id, parsed);
    return new Refusal(parsed);
  }
  const OutputView view = ViewOf(message.output());
  RequestSpec spec = ToSpec(std::move(message), call_info);
  const std::string id = spec.request_id;
  absl::StatusOr<ValidatedRequest> validated =
      ValidatedRequest::Make(std::move(spec), *native->dispatcher->models());
  if (!validated.ok()) {
    CountRefusal(*native, id, validated.status());
    return new Refusal(validated.status());
  }
  std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(native, call));
  reactor->self_ = reactor;
  native->loop->Post([reactor, view, request = *std::move(validated)]() mutable {
    reactor->Begin(std::move(request), view);
  });
  return reactor.get();
}

void GenerateReactor::Begin(ValidatedRequest request, OutputView view) {
  view.vocabulary = native_->dispatcher->vocabulary();
  buffer_.emplace(native_->limits, view, request);
  generation_ = native_->dispatcher->Begin(std::move(request), this);
  if (cancelled_) generation_->Cancel(absl::CancelledError("the client cancelled the call"));
}

void GenerateReactor::OnStarted(const StartedInfo& started) {
  buffer_->Add(started);
  WriteOrFinish();
}

absl::Status GenerateReactor::OnChunk(OutputChunk chunk) {
  absl::Status status = buffer_->Add(std::move(chunk));
  if (!status.ok()) native_->metrics->slow_readers.Increment();
  WriteOrFinish();
  return status;
}

void GenerateReactor::OnSampleEnd(SampleEnd end) {
  if (!end.status.ok()) return;  // the call's own status says so
  buffer_->Add(std::move(end));
  WriteOrFinish();
}

void GenerateReactor::OnEnd(const absl::Status& status, InflightPlace place) {
  ended_ = true;
  place_ = std::move(place);
  status_ = status;
  if (writing_) WatchSlowReader();
  WriteOrFinish();
}

void GenerateReactor::WriteOrFinish() {
  if (writing_ || finished_) return;
  if (cancelled_ && ended_) return FinishCall();
  if (cancelled_ || (!ended_ && !buffer_->HasNext())) return;
  if (!buffer_->HasNext()) return FinishCall();
  message_ = Serialize(buffer_->Next());
  writing_ = true;
  if (ended_) WatchSlowReader();
  StartWrite(&message_);
}

void GenerateReactor::FinishCall() {
  finished_ = true;
  place_ = nullptr;
  native_->loop->CancelTimer(&slow_reader_timer_);
  Finish(ToGrpcStatus(status_));
}

// The request is over, its output is not: a client that reads nothing would keep its call, and what
// is buffered for it, for ever.
void GenerateReactor::WatchSlowReader() {
  native_->loop->CancelTimer(&slow_reader_timer_);
  slow_reader_timer_ =
      native_->loop->RunAfter(std::chrono::milliseconds(native_->limits.slow_reader_timeout_ms),
                              [weak = std::weak_ptr<GenerateReactor>(self_)] {
                                const std::shared_ptr<GenerateReactor> self = weak.lock();
                                // gRPC can't be done with the call before Finish.
                                if (self != nullptr && !self->finished_) self->call_->TryCancel();
                              });
}

void GenerateReactor::OnWriteDone(bool ok) {
  native_->loop->Post([self = self_, ok] { self->HandleWriteDone(ok); });
}

void GenerateReactor::HandleWriteDone(bool ok) {
  writing_ = false;
  if (!ok) cancelled_ = true;
  if (!ok && generation_ != nullptr) {
    generation_->Cancel(absl::CancelledError("the client is gone"));
  }
  WriteOrFinish();
}

void GenerateReactor::OnCancel() {
  native_->loop->Post([self = self_] {
    self->cancelled_ = true;
    if (self->generation_ == nullptr) return;  // Begin follows
    self->generation_->Cancel(absl::CancelledError("the client cancelled the call"));
    self->WriteOrFinish();
  });
}

void GenerateReactor::OnDone() {
  native_->loop->Post([self = self_] {
    self->native_->loop->CancelTimer(&self->slow_reader_timer_);
    if (self->generation_ != nullptr) self->generation_->Detach();
    self->native_->metrics->open_calls.Decrement();
    self->self_ = nullptr;
  });
}

}  // namespace caravan
