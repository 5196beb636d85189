// One bidirectional call to another service, for an owner that lives on the event loop.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gateway/event_loop.h"

namespace caravan {

// Messages come to the handler on the loop, in order; those that arrive while the loop is busy come
// in one task. Reading pauses while kMaxUnhandled wait: a slow loop slows the peer, and fills no
// memory. Writes are queued without bound: what is in flight bounds them.
//
// Threads: Open, Write and Close on the loop; gRPC's threads move messages in and out of the two
// queues, under a lock that is never held over a call into gRPC. The call keeps itself (and the
// loop) alive until gRPC has let go of it.
template <typename Request, typename Response>
class ClientStream : public grpc::ClientBidiReactor<Request, Response> {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    virtual void OnMessage(Response message) = 0;
    // Last. Not called after Close.
    virtual void OnClosed(const grpc::Status& status) = 0;
  };
  using Reactor = grpc::ClientBidiReactor<Request, Response>;

  // `start` calls the stub: stub->async()->Method(context, reactor). `handler` lives until OnClosed
  // or Close.
  static std::shared_ptr<ClientStream> Open(
      EventLoop* loop, Handler* handler,
      absl::FunctionRef<void(grpc::ClientContext*, Reactor*)> start) {
    std::shared_ptr<ClientStream> stream(new ClientStream(loop, handler));
    stream->self_ = stream;
    start(&stream->context_, stream.get());
    stream->AddHold();  // for the writes that the loop starts; given back when reading has ended
    stream->StartRead(&stream->incoming_);
    stream->StartCall();
    return stream;
  }

  void Write(Request request) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (ended_) return;
      unwritten_.push_back(std::move(request));
      if (writing_) return;
      writing_ = true;
    }
    WriteNext();
  }

  // Cancels the call and forgets the handler.
  void Close() {
    handler_ = nullptr;
    context_.TryCancel();
  }

 private:
  static constexpr size_t kMaxUnhandled = 1024;
  ClientStream(EventLoop* loop, Handler* handler)
      : loop_(loop), handler_(handler), keep_alive_(loop) {}

  // REQUIRES: writing_ was set by the caller, who gave up the lock.
  void WriteNext() {
    grpc::WriteOptions options;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (unwritten_.empty() || ended_) {
        writing_ = false;
        return;
      }
      outgoing_ = std::move(unwritten_.front());
      unwritten_.pop_front();
      if (!unwritten_.empty()) options.set_buffer_hint();  // one flush for a burst
    }
    this->StartWrite(&outgoing_, options);
  }

  void ReadNext() {
    incoming_ = Response();
    this->StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override { WriteNext(); }

  void OnReadDone(bool ok) override {
    bool post = false;
    bool read = false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (ok) {
        post = unhandled_.empty();
        unhandled_.push_back(std::move(incoming_));
        read = unhandled_.size() < kMaxUnhandled;
        reading_ = read;
      } else {
        ended_ = true;
      }
    }
    if (post) loop_->Post([self = self_] { self->Handle(); });
    if (!ok) loop_->Post([self = self_] { self->RemoveHold(); });
    if (read) ReadNext();
  }

  void Handle() {
    std::vector<Response> messages;
    bool read = false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      messages.swap(unhandled_);
      read = !std::exchange(reading_, true);
    }
    if (read) ReadNext();
    for (Response& message : messages) {
      if (handler_ != nullptr) handler_->OnMessage(std::move(message));
    }
  }

  void OnDone(const grpc::Status& status) override {
    loop_->Post([self = std::move(self_), status] {
      if (self->handler_ != nullptr) self->handler_->OnClosed(status);
      self->handler_ = nullptr;
    });
  }

  EventLoop* const loop_;
  Handler* handler_;  // loop thread only
  grpc::ClientContext context_;
  Request outgoing_;   // owned by gRPC while writing_
  Response incoming_;  // owned by gRPC while reading_
  std::mutex mutex_;
  std::deque<Request> unwritten_;       // guarded by mutex_
  std::vector<Response> unhandled_;     // guarded by mutex_
  bool writing_ = false;                // guarded by mutex_
  bool reading_ = true;                 // guarded by mutex_
  bool ended_ = false;                  // guarded by mutex_
  std::shared_ptr<ClientStream> self_;  // until OnDone
  const EventLoop::KeepAlive keep_alive_;
};

}  // namespace caravan
