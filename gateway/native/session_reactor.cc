#include "gateway/native/session_reactor.h"

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"
#include "common/utf8.h"
#include "gateway/grpc_call.h"

namespace caravan {

void SessionRequestSink::OnStarted(const StartedInfo& started) {
  started_ = true;
  buffer_.Add(started);
  session_->GiveTurn(this);
}

absl::Status SessionRequestSink::OnChunk(OutputChunk chunk) {
  absl::Status status = buffer_.Add(std::move(chunk));
  if (!status.ok()) session_->native_->metrics->slow_readers.Increment();
  session_->GiveTurn(this);
  return status;
}

void SessionRequestSink::OnSampleEnd(SampleEnd end) {
  buffer_.Add(std::move(end));
  session_->GiveTurn(this);
}

void SessionRequestSink::OnEnd(const absl::Status& status, InflightPlace place) {
  ended_ = true;
  place_ = std::move(place);
  moved_ = EventLoop::Clock::now();
  if (!started_) {
    SampleEnd end;
    end.reason = absl::IsCancelled(status) ? EndReason::kCancelled : EndReason::kError;
    end.status = status;
    buffer_.Add(std::move(end));
  }
  session_->GiveTurn(this);
  session_->WatchSlowReader();
}

SessionReactor::SessionReactor(const NativeContext* native, Registry* registry,
                               grpc::CallbackServerContext* call)
    : native_(native),
      registry_(registry),
      call_(call),
      call_info_(CallInfoOf(*call)),
      keep_alive_(native->loop) {
  native_->metrics->open_calls.Increment();
}

SessionReactor* SessionReactor::Start(const NativeContext* native, Registry* registry,
                                      grpc::CallbackServerContext* call) {
  std::shared_ptr<SessionReactor> session(new SessionReactor(native, registry, call));
  session->self_ = session;
  native->loop->Post([session] { session->registry_->emplace(session.get(), session); });
  session->StartRead(&session->incoming_);
  return session.get();
}

// On gRPC's thread: validation of a long prompt costs time that the loop must not spend.
void SessionReactor::OnReadDone(bool ok) {
  if (!ok) {
    return native_->loop->Post([self = self_] {
      self->reading_ = false;
      self->half_closed_ = true;
      self->FinishIfOver();
    });
  }
  v1::SessionRequest message;
  grpc::ByteBuffer bytes = std::exchange(incoming_, {});
  absl::Status status = Decompress(native_->max_message_bytes, &bytes);
  if (status.ok()) status = Parse(bytes, &message);
  if (!status.ok()) {
    return RefuseMalformed(message.start().request_id(), status);
  }
  switch (message.message_case()) {
    case v1::SessionRequest::kStart:
      return ParseStart(std::move(*message.mutable_start()));
    case v1::SessionRequest::kCancel:
      return native_->loop->Post([self = self_, id = message.cancel().request_id()] {
        self->HandleCancel(id);
        self->ReadNext();
      });
    case v1::SessionRequest::kCredit:
      return native_->loop->Post([self = self_, credit = message.credit()] {
        self->HandleCredit(credit.request_id(), credit.tokens());
        self->ReadNext();
      });
    case v1::SessionRequest::MESSAGE_NOT_SET:
      return native_->loop->Post([self = self_] {
        self->Refuse("", absl::InvalidArgumentError(
                             "a session message has no content; set start, cancel or credit"));
        self->ReadNext();
      });
  }
}

// The id, which comes first, tells which request it was; none where the id is what is wrong.
void SessionReactor::RefuseMalformed(std::string id, const absl::Status& status) {
  if (FindInvalidUtf8(id) != std::string::npos) id.clear();
  native_->loop->Post([self = self_, id = std::move(id), status] {
    self->Refuse(self->requests_.contains(id) ? "" : id, status);
    self->ReadNext();
  });
}

void SessionReactor::ParseStart(v1::GenerateRequest request) {
  const std::string id = request.request_id();
  const OutputView view = ViewOf(request.output());
  absl::StatusOr<ValidatedRequest> validated =
      id.empty() ? absl::InvalidArgumentError(
                       "request_id is empty; a session needs one to tell requests apart")
                 : ValidatedRequest::Make(ToSpec(std::move(request), call_info_),
                                          *native_->dispatcher->models());
  native_->loop->Post([self = self_, id, view, validated = std::move(validated)]() mutable {
    if (self->requests_.contains(id)) {
      self->Refuse(id, absl::AlreadyExistsError(absl::StrCat(
                           "request_id '", id,
                           "' is in use on this session by a request that goes on; this refusal "
                           "is about the second one; choose another id")));
    } else if (!validated.ok()) {
      self->Refuse(id, validated.status());
    } else {
      self->HandleStart(*std::move(validated), view);
    }
    self->ReadNext();
  });
}

void SessionReactor::HandleStart(ValidatedRequest request, OutputView view) {
  if (cancelled_) return;
  view.vocabulary = native_->dispatcher->vocabulary();
  const std::string& id = request.spec().request_id;
  auto sink =
      std::make_unique<SessionRequestSink>(this, id, OutputBuffer(native_->limits, view, request));
  SessionRequestSink* added = sink.get();
  requests_.emplace(id, std::move(sink));
  added->generation_ = native_->dispatcher->Begin(std::move(request), added);
}

void SessionReactor::HandleCancel(const std::string& id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return native_->metrics->unknown_cancels.Increment();
  SessionRequestSink* request = found->second.get();
  request->buffer_.DropChunks();
  request->generation_->Cancel(absl::CancelledError("the client cancelled the request"));
  GiveTurn(request);
}

void SessionReactor::HandleCredit(const std::string& id, uint32_t tokens) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return native_->metrics->unknown_cancels.Increment();
  found->second->buffer_.AddCredit(tokens);
  GiveTurn(found->second.get());
}

void SessionReactor::Refuse(const std::string& id, const absl::Status& status) {
  CountRefusal(*native_, id, status);
  SampleEnd end;
  end.reason = EndReason::kError;
  end.status = status;
  v1::SessionResponse notice;
  notice.mutable_event()->set_request_id(id);
  *notice.mutable_event()->mutable_event()->mutable_finished() = ToProto(end);
  notices_.push_back(std::move(notice));
  PumpSoon();
}

void SessionReactor::ReadNext() {
  if (cancelled_ || finished_ || notices_.size() >= kMaxNotices) {
    reading_ = false;
    return;
  }
  reading_ = true;
  StartRead(&incoming_);
}

void SessionReactor::GoAway(const std::string& reason, uint32_t drain_timeout_ms) {
  if (std::exchange(going_away_, true)) return;
  v1::SessionResponse notice;
  notice.mutable_go_away()->set_reason(reason);
  notice.mutable_go_away()->set_drain_timeout_ms(drain_timeout_ms);
  notices_.push_back(std::move(notice));
  PumpSoon();
}

void SessionReactor::GiveTurn(SessionRequestSink* request) {
  if (!std::exchange(request->has_turn_, true)) turns_.push_back(request);
  PumpSoon();
}

// Never at once: the caller may be inside a request that Pump forgets.
void SessionReactor::PumpSoon() {
  if (std::exchange(pump_posted_, true)) return;
  native_->loop->Post([self = self_] {
    self->pump_posted_ = false;
    self->Pump();
  });
}

void SessionReactor::Pump() {
  if (cancelled_ || finished_) return FinishIfOver();
  bool write = false;
  v1::SessionResponse message;
  for (;;) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (outbox_.size() >= kMaxOutbox) break;
    }
    if (!NextMessage(&message)) break;
    const std::lock_guard<std::mutex> lock(mutex_);
    outbox_.push_back(std::move(message));
    message = v1::SessionResponse();
    if (!std::exchange(writing_, true)) write = true;
  }
  if (write) {
    WriteNext();
    WatchSlowReader();
  }
  if (!reading_ && !half_closed_ && notices_.size() < kMaxNotices) ReadNext();
  FinishIfOver();
}

bool SessionReactor::NextMessage(v1::SessionResponse* message) {
  if (!notices_.empty()) {
    *message = std::move(notices_.front());
    notices_.pop_front();
    return true;
  }
  while (!turns_.empty()) {
    SessionRequestSink* request = turns_.front();
    turns_.pop_front();
    request->has_turn_ = false;
    const bool has_next = request->buffer_.HasNext();
    if (has_next) {
      message->mutable_event()->set_request_id(request->id_);
      *message->mutable_event()->mutable_event() = request->buffer_.Next();
      request->moved_ = EventLoop::Clock::now();
    }
    if (request->ended_ && request->buffer_.empty()) {
      requests_.erase(requests_.find(request->id_));
    } else if (request->buffer_.HasNext()) {
      request->has_turn_ = true;
      turns_.push_back(request);
    }
    if (has_next) return true;
  }
  return false;
}

// REQUIRES: writing_ was set by the caller, who gave up the lock.
void SessionReactor::WriteNext() {
  grpc::WriteOptions options;
  bool refill = false;
  bool write = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    refill = outbox_.empty() || outbox_.size() == kLowOutbox;
    write = !outbox_.empty();
    writing_ = write;
    if (write) {
      write_started_ = EventLoop::Clock::now();
      outgoing_ = Serialize(outbox_.front());
      outbox_.pop_front();
      // One flush for a burst; not with the first message (decision 0088).
      if (std::exchange(any_written_, true) && !outbox_.empty()) options.set_buffer_hint();
    }
  }
  if (refill) native_->loop->Post([self = self_] { self->Pump(); });
  if (write) StartWrite(&outgoing_, options);
}

// One timer looks again while something may wait, when what waits longest will have waited too
// long: a timer for each write would cost more than the write. What begins to wait while it runs is
// due after it.
void SessionReactor::WatchSlowReader() {
  if (!watching_) WatchSlowReader(EventLoop::Clock::now());
}

void SessionReactor::WatchSlowReader(EventLoop::Clock::time_point since) {
  watching_ = true;
  slow_reader_timer_ = native_->loop->RunAt(
      since + std::chrono::milliseconds(native_->limits.slow_reader_timeout_ms),
      [weak = std::weak_ptr<SessionReactor>(self_)] {
        if (const auto self = weak.lock()) self->CheckSlowReader();
      });
}

void SessionReactor::CheckSlowReader() {
  watching_ = false;
  if (cancelled_ || finished_) return;
  const EventLoop::Clock::time_point now = EventLoop::Clock::now();
  const auto too_old = now - std::chrono::milliseconds(native_->limits.slow_reader_timeout_ms);
  EventLoop::Clock::time_point oldest = now;
  bool writing = false;
  bool stuck = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    writing = writing_;
    stuck = writing_ && write_started_ <= too_old;
    if (writing) oldest = write_started_;
  }
  if (stuck) {
    LogWarning("slow reader cut off", {{"client", call_info_.client}});
    native_->metrics->slow_readers.Increment();
    return call_->TryCancel();  // gRPC can't be done with the call before Finish
  }
  bool waits = false;
  for (const auto& [id, request] : requests_) {
    waits = waits || request->ended_;
    if (!request->ended_ || request->buffer_.HasNext()) continue;
    if (request->moved_ > too_old) {
      oldest = std::min(oldest, request->moved_);
      continue;
    }
    native_->metrics->slow_readers.Increment();
    request->buffer_.Abandon(absl::ResourceExhaustedError(
        absl::StrCat("no credit came for ", native_->limits.slow_reader_timeout_ms,
                     " ms after the request had ended; what waited for it was dropped")));
    GiveTurn(request.get());
  }
  if (writing || waits) WatchSlowReader(oldest);
}

void SessionReactor::OnWriteDone(bool ok) {
  if (ok) return WriteNext();
  native_->loop->Post([self = self_] {
    {
      const std::lock_guard<std::mutex> lock(self->mutex_);
      self->writing_ = false;
      self->outbox_.clear();
    }
    self->CancelAll();
  });
}

void SessionReactor::OnCancel() {
  native_->loop->Post([self = self_] { self->CancelAll(); });
}

void SessionReactor::CancelAll() {
  if (!std::exchange(cancelled_, true)) {
    turns_.clear();
    notices_.clear();
    for (const auto& [id, request] : requests_) {
      // Without the sink: nobody is there to be told.
      if (request->generation_ == nullptr) continue;
      request->generation_->Detach();
      request->generation_->Cancel(absl::CancelledError("the client's session broke"));
    }
    requests_.clear();
  }
  FinishIfOver();
}

void SessionReactor::FinishIfOver() {
  if (finished_) return;
  const bool over = (half_closed_ || going_away_) && requests_.empty() && notices_.empty();
  if (!cancelled_ && !over) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (writing_) return;  // its end posts Pump
  }
  finished_ = true;
  Finish(cancelled_ ? grpc::Status::CANCELLED : grpc::Status::OK);
}

void SessionReactor::OnDone() {
  native_->loop->Post([self = self_] {
    self->CancelAll();
    self->native_->loop->CancelTimer(&self->slow_reader_timer_);
    self->registry_->erase(self.get());
    self->native_->metrics->open_calls.Decrement();
    self->self_ = nullptr;
  });
}

}  // namespace caravan
