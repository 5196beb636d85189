#include "gateway/triton/grpc/stream_reactor.h"

#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"
#include "gateway/triton/grpc/translate.h"

namespace caravan {
namespace {

// Metadata of a client that wants its first error as the call's status.
constexpr char kGrpcErrorKey[] = "triton_grpc_error";

}  // namespace

StreamReactor::StreamReactor(EventLoop* loop, InferenceServer* server, const StreamLimits& limits,
                             ResponseEncoder* encoder, grpc::CallbackServerContext* call)
    : loop_(loop),
      server_(server),
      limits_(limits),
      encoder_(encoder),
      call_(call),
      call_info_(CallInfoOf(*call)),
      ends_on_error_(MetadataOf(*call, kGrpcErrorKey) == "true"),
      keep_alive_(loop) {}

StreamReactor* StreamReactor::Start(EventLoop* loop, InferenceServer* server,
                                    const StreamLimits& limits, ResponseEncoder* encoder,
                                    grpc::CallbackServerContext* call) {
  std::shared_ptr<StreamReactor> stream(new StreamReactor(loop, server, limits, encoder, call));
  stream->self_ = stream;
  stream->StartRead(&stream->incoming_);
  return stream.get();
}

// On gRPC's thread: taking a large message apart costs time that the loop must not spend.
void StreamReactor::OnReadDone(bool ok) {
  if (!ok) {
    return loop_->Post([self = self_] {
      self->reading_ = false;
      self->half_closed_ = true;
      self->FinishIfOver();
    });
  }
  std::string id;
  grpc::ByteBuffer bytes = std::exchange(incoming_, {});
  const absl::Status status = Decompress(limits_.max_message_bytes, &bytes);
  absl::StatusOr<InferRequest> parsed =
      status.ok() ? ParseInferRequest(bytes, call_info_, /*streaming=*/true, &id)
                  : absl::StatusOr<InferRequest>(status);
  loop_->Post([self = self_, id = std::move(id), parsed = std::move(parsed)]() mutable {
    self->Begin(id, std::move(parsed));
    self->ReadNext();
  });
}

void StreamReactor::Begin(const std::string& id, absl::StatusOr<InferRequest> parsed) {
  if (cancelled_ || finished_) return;
  requests_.push_front(std::make_unique<Request>(this));
  Request* request = requests_.front().get();
  request->place = requests_.begin();
  request->id = id;
  request->refusal = parsed.status();
  if (parsed.ok()) {
    request->in_order = !server_->AnswersMoreThanOnce(parsed->model_name);
    if (request->in_order) in_order_.push_back(request);
    absl::StatusOr<std::shared_ptr<Inference>> inference =
        server_->Infer(*std::move(parsed), request);
    request->refusal = inference.status();
    if (inference.ok()) request->inference = *std::move(inference);
  }
  if (!request->refusal.ok()) GiveTurn(request);
}

void StreamReactor::ReadNext() {
  reading_ =
      !cancelled_ && !finished_ && requests_.size() < static_cast<size_t>(limits_.max_requests);
  if (reading_) StartRead(&incoming_);
}

void StreamReactor::GiveTurn(Request* request) {
  if (!std::exchange(request->has_turn, true)) turns_.push_back(request);
  Pump();
}

void StreamReactor::Pump() {
  if (cancelled_ || finished_) return FinishIfOver();
  bool write = false;
  grpc::ByteBuffer message;
  while (!turns_.empty() && AwaitRoom() && NextMessage(&message)) {
    if (ends_on_error_ && !status_.ok()) break;
    if (Enqueue(std::exchange(message, {}))) write = true;
  }
  if (write) {
    WatchSlowReader();
    // Behind the responses that the step brings to other streams: written one right after the
    // other, they wake gRPC's threads less often than between the making of two. Never with the
    // buffer hint: gRPC 1.51 would leave a call's first message, and its metadata, where they are
    // until something else is written to the connection.
    loop_->Post([self = self_] { self->StartWrite(&self->outgoing_); });
  }
  if (ends_on_error_ && !status_.ok()) return CancelAll();  // once the outbox is written
  if (!reading_ && !half_closed_) ReadNext();
  FinishIfOver();
}

bool StreamReactor::Enqueue(grpc::ByteBuffer message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (std::exchange(writing_, true)) {
    outbox_bytes_ += message.Length();
    outbox_.push_back(std::move(message));
    return false;
  }
  outgoing_.Swap(&message);
  write_started_ = EventLoop::Clock::now();
  return true;
}

bool StreamReactor::AwaitRoom() {
  const std::lock_guard<std::mutex> lock(mutex_);
  pump_awaited_ = outbox_.size() >= kMaxOutbox || outbox_bytes_ >= kMaxOutboxBytes;
  return !pump_awaited_;
}

// On gRPC's thread, after a write.
void StreamReactor::WriteNext() {
  grpc::WriteOptions options;
  bool pump = false;
  bool write = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    write = !outbox_.empty();
    writing_ = write;
    pump = pump_awaited_ && outbox_.size() <= kLowOutbox;
    if (pump) pump_awaited_ = false;
    if (write) {
      write_started_ = EventLoop::Clock::now();
      outgoing_.Swap(&outbox_.front());
      outbox_.pop_front();
      outbox_bytes_ -= outgoing_.Length();
      if (!outbox_.empty()) options.set_buffer_hint();  // one flush for a burst
    }
  }
  if (pump) loop_->Post([self = self_] { self->Pump(); });
  if (write) StartWrite(&outgoing_, options);
}

bool StreamReactor::NextMessage(grpc::ByteBuffer* message) {
  while (!turns_.empty()) {
    Request* request = turns_.front();
    turns_.pop_front();
    request->has_turn = false;
    if (request->in_order && in_order_.front() != request) continue;  // Forget gives it its turn
    if (TakeFrom(request, message)) return true;
  }
  return false;
}

bool StreamReactor::TakeFrom(Request* request, grpc::ByteBuffer* message) {
  absl::Status error = request->refusal;
  Inference* inference = request->inference.get();
  if (error.ok() && inference->HasNext()) {
    absl::StatusOr<InferResponse> response = inference->Next();
    error = response.status();
    if (response.ok()) *message = encoder_->EncodeInStream(*std::move(response));
  } else if (error.ok()) {
    if (!inference->ended()) return false;
    error = inference->status();
    if (error.ok()) {  // its last response was taken before
      Forget(request);
      return false;
    }
  }
  if (!error.ok()) {
    status_ = error;
    *message = Serialize(ErrorResponse(request->id, error));
    Forget(request);
  } else if (inference->HasNext()) {
    request->has_turn = true;
    turns_.push_back(request);
  } else if (inference->ended()) {
    if (inference->status().ok()) {
      Forget(request);
    } else {
      request->has_turn = true;
      turns_.push_back(request);
    }
  }
  return true;
}

void StreamReactor::Forget(Request* request) {
  if (request->has_turn) std::erase(turns_, request);
  if (request->in_order) {
    std::erase(in_order_, request);
    if (!in_order_.empty() && !std::exchange(in_order_.front()->has_turn, true)) {
      turns_.push_back(in_order_.front());
    }
  }
  requests_.erase(request->place);
}

// A client that takes nothing would keep its call, and what its requests have made, for ever. One
// timer looks again and again: a timer for each write would cost more than the write.
void StreamReactor::WatchSlowReader() {
  if (std::exchange(watching_, true)) return;
  StartWatch(EventLoop::Clock::now());
}

void StreamReactor::StartWatch(EventLoop::Clock::time_point since) {
  slow_reader_timer_ = loop_->RunAt(since + limits_.slow_reader_timeout,
                                    [weak = std::weak_ptr<StreamReactor>(self_)] {
                                      if (const auto self = weak.lock()) self->CheckSlowReader();
                                    });
}

void StreamReactor::CheckSlowReader() {
  EventLoop::Clock::time_point started;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    watching_ = writing_ && !finished_;
    started = write_started_;
  }
  if (!watching_) return;
  if (EventLoop::Clock::now() < started + limits_.slow_reader_timeout) return StartWatch(started);
  // gRPC can't be done with the call before Finish.
  LogWarning("slow reader cut off", {{"client", call_info_.client}});
  call_->TryCancel();
}

void StreamReactor::OnWriteDone(bool ok) {
  if (ok) return WriteNext();
  loop_->Post([self = self_] {
    {
      const std::lock_guard<std::mutex> lock(self->mutex_);
      self->writing_ = false;
      self->outbox_.clear();
    }
    self->CancelAll();
  });
}

void StreamReactor::OnCancel() {
  loop_->Post([self = self_] { self->CancelAll(); });
}

void StreamReactor::CancelAll() {
  if (!std::exchange(cancelled_, true)) {
    turns_.clear();
    in_order_.clear();
    requests_.clear();  // an inference that is dropped is cancelled
  }
  FinishIfOver();
}

void StreamReactor::FinishIfOver() {
  if (finished_) return;
  const bool over = half_closed_ && requests_.empty();
  if (!cancelled_ && !over) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    pump_awaited_ = writing_;
    if (writing_) return;
  }
  finished_ = true;
  const bool with_error = ends_on_error_ && !status_.ok();
  if (with_error) return Finish(ToGrpcStatus(status_));
  Finish(cancelled_ ? grpc::Status::CANCELLED : grpc::Status::OK);
}

void StreamReactor::OnDone() {
  loop_->Post([self = self_] {
    self->CancelAll();
    self->loop_->CancelTimer(&self->slow_reader_timer_);
    self->self_ = nullptr;
  });
}

}  // namespace caravan
