#include "worker/session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"

namespace caravan {
namespace {

// What a message weighs in the queue.
int64_t TokensOf(const v1::WorkerSessionResponse& message) {
  int64_t tokens = 1;
  for (const v1::WorkerTokenEvent& event : message.events().events()) {
    tokens += 1 + event.token_ids_size();
    for (const v1::WorkerTopLogprobs& top : event.top_logprobs()) tokens += top.token_ids_size();
  }
  return tokens;
}

}  // namespace

std::shared_ptr<WorkerSession> WorkerSession::Open(grpc::CallbackServerContext* context,
                                                   Handler* handler, int64_t max_tokens) {
  auto session = std::shared_ptr<WorkerSession>(new WorkerSession(context, handler, max_tokens));
  session->self_ = session;
  return session;
}

void WorkerSession::Start() { StartRead(&in_); }

void WorkerSession::OnReadDone(bool ok) {
  if (!ok) {
    handler_->OnSessionClosed(self_);
    return Close(grpc::Status::OK);
  }
  handler_->OnSessionMessage(self_, in_);
  in_.Clear();
  StartRead(&in_);
}

void WorkerSession::Send(v1::WorkerSessionResponse message) {
  bool fits = false;
  bool write = false;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
    fits = Enqueue(std::move(message));
    write = fits && BeginWrite();
  }
  if (write) StartWrite(&out_);
  if (fits) return;
  LogWarning("broke session", {{"gateway", gateway()}, {"reason", "it does not read"}});
  Break({grpc::StatusCode::RESOURCE_EXHAUSTED, "the gateway does not read its session"});
}

bool WorkerSession::Enqueue(v1::WorkerSessionResponse message) {
  queued_tokens_ += TokensOf(message);
  if (queued_tokens_ > max_tokens_) return false;
  if (!queue_.empty() && queue_.back().epoch() == message.epoch()) {
    v1::WorkerSessionResponse& last = queue_.back();
    if (last.has_events() && message.has_events()) {
      last.mutable_events()->MergeFrom(message.events());
      return true;
    }
    if (last.has_load() && message.has_load()) {
      last = std::move(message);
      return true;
    }
  }
  queue_.push_back(std::move(message));
  return true;
}

bool WorkerSession::BeginWrite() {
  if (writing_ || queue_.empty()) return false;
  out_ = std::move(queue_.front());
  queue_.pop_front();
  queued_tokens_ -= TokensOf(out_);
  writing_ = true;
  return true;
}

void WorkerSession::OnWriteDone(bool ok) {
  bool write = false;
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    // A write that failed means that the stream is broken: its reads say so too.
    write = ok && BeginWrite();
    if (!write && !closing_) return;
  }
  if (write) {
    StartWrite(&out_);
  } else {
    Finish(status_);
  }
}

void WorkerSession::set_gateway(const std::string& name) {
  constexpr size_t kMaxBytes = 100;
  const std::lock_guard lock(mutex_);
  gateway_ = name.substr(0, kMaxBytes);
}

std::string WorkerSession::gateway() const {
  const std::lock_guard lock(mutex_);
  return gateway_;
}

void WorkerSession::Close(const grpc::Status& status) { End(status, /*drop=*/false); }

void WorkerSession::Break(const grpc::Status& status) {
  context_->TryCancel();
  End(status, /*drop=*/true);
}

// Reads end by themselves when the call is cancelled.
void WorkerSession::OnCancel() { End(grpc::Status::CANCELLED, /*drop=*/true); }

void WorkerSession::End(const grpc::Status& status, bool drop) {
  {
    const std::lock_guard lock(mutex_);
    if (drop) queue_.clear();
    if (closing_) return;
    closing_ = true;
    status_ = status;
    if (writing_) return;  // OnWriteDone goes on
  }
  Finish(status);
}

void WorkerSession::OnDone() { self_.reset(); }

}  // namespace caravan
