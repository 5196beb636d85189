#include "worker/replica/join_stream.h"

#include <utility>

namespace caravan {

std::shared_ptr<JoinStream> JoinStream::Open(grpc::CallbackServerContext* context,
                                             Handler* handler) {
  auto stream = std::shared_ptr<JoinStream>(new JoinStream(context, handler));
  stream->self_ = stream;
  return stream;
}

void JoinStream::Start() { StartRead(&in_); }

void JoinStream::OnReadDone(bool ok) {
  if (!ok) {
    handler_->OnStreamClosed(self_);
    return End(/*drop=*/false);
  }
  handler_->OnFollowerMessage(self_, in_);
  in_.Clear();
  StartRead(&in_);
}

void JoinStream::Send(v1::LeaderMessage message) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
    queue_.push_back(std::move(message));
    if (!BeginWrite()) return;
  }
  StartWrite(&out_);
}

void JoinStream::SendIfIdle(v1::LeaderMessage message) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_ || writing_) return;
    queue_.push_back(std::move(message));
    BeginWrite();
  }
  StartWrite(&out_);
}

bool JoinStream::BeginWrite() {
  if (writing_ || queue_.empty()) return false;
  out_ = std::move(queue_.front());
  queue_.pop_front();
  writing_ = true;
  return true;
}

void JoinStream::OnWriteDone(bool ok) {
  bool write = false;
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    write = ok && BeginWrite();
    if (!write && !closing_) return;
  }
  if (write) {
    StartWrite(&out_);
  } else {
    Finish(grpc::Status::OK);
  }
}

void JoinStream::Close() { End(/*drop=*/false); }

void JoinStream::Break() {
  context_->TryCancel();
  End(/*drop=*/true);
}

void JoinStream::OnCancel() { End(/*drop=*/true); }

void JoinStream::End(bool drop) {
  {
    const std::lock_guard lock(mutex_);
    if (drop) queue_.clear();
    if (closing_) return;
    closing_ = true;
    if (writing_) return;  // OnWriteDone goes on
  }
  Finish(grpc::Status::OK);
}

void JoinStream::OnDone() { self_.reset(); }

}  // namespace caravan
