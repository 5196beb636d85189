// GRPCInferenceService.ModelStreamInfer: many requests on one call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "gateway/config.h"
#include "gateway/event_loop.h"
#include "gateway/grpc_call.h"
#include "gateway/triton/grpc/response_encoder.h"
#include "gateway/triton/inference_server.h"

namespace caravan {

struct StreamLimits {
  // Requests of one stream that have not ended; the stream is not read while there are more.
  int max_requests = 1024;
  // A client that takes no response for so long is cut off.
  std::chrono::milliseconds slow_reader_timeout{30000};
  size_t max_message_bytes = 64 << 20;  // of a decompressed message
};

// gRPC's callbacks parse and post to the loop, where the state is. Requests take turns at the
// stream, a response each, made when it can soon be written: a few wait in the outbox, which gRPC's
// threads write out without the loop, and which bounds what a slow client costs. The next message
// is read once the last one was handled.
class StreamReactor : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // `encoder` is used on the loop, and outlives the loop's tasks.
  static StreamReactor* Start(EventLoop* loop, InferenceServer* server, const StreamLimits& limits,
                              ResponseEncoder* encoder, grpc::CallbackServerContext* call);

 private:
  // One request, until its last response was written.
  struct Request : public InferSink {
    explicit Request(StreamReactor* reactor) : stream(reactor) {}
    void OnInferReady() override { stream->GiveTurn(this); }

    StreamReactor* const stream;
    std::string id;
    absl::Status refusal;  // of one that never began
    std::shared_ptr<Inference> inference;
    bool in_order =
        false;  // answers after those asked before it, as a model does that can't stream
    bool has_turn = false;
    std::list<std::unique_ptr<Request>>::iterator place;
  };

  // Pump is posted again when so few are left of at most so many.
  static constexpr size_t kMaxOutbox = 16;
  static constexpr size_t kLowOutbox = 4;
  static constexpr size_t kMaxOutboxBytes = 64 << 10;

  StreamReactor(EventLoop* loop, InferenceServer* server, const StreamLimits& limits,
                ResponseEncoder* encoder, grpc::CallbackServerContext* call);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Begin(const std::string& id, absl::StatusOr<InferRequest> parsed);
  void ReadNext();
  void GiveTurn(Request* request);
  void Pump();
  // Room for one more message. False: OnWriteDone posts Pump once there is.
  bool AwaitRoom();
  // True: nothing was being written, and the message is now outgoing_.
  bool Enqueue(grpc::ByteBuffer message);
  bool NextMessage(grpc::ByteBuffer* message);
  // False: it has nothing to say now.
  bool TakeFrom(Request* request, grpc::ByteBuffer* message);
  void WriteNext();
  void Forget(Request* request);
  void WatchSlowReader();
  void StartWatch(EventLoop::Clock::time_point since);
  void CheckSlowReader();
  void CancelAll();
  void FinishIfOver();

  EventLoop* const loop_;
  InferenceServer* const server_;
  const StreamLimits limits_;
  ResponseEncoder* const encoder_;
  grpc::CallbackServerContext* const call_;  // until gRPC is done
  const CallInfo call_info_;
  const bool ends_on_error_;  // the client asked for a real status
  std::shared_ptr<StreamReactor> self_;
  std::list<std::unique_ptr<Request>> requests_;
  std::deque<Request*> turns_;
  std::deque<Request*> in_order_;
  bool reading_ = true;
  bool half_closed_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
  absl::Status status_;    // of the call
  bool watching_ = false;  // the timer runs
  EventLoop::TimerId slow_reader_timer_;
  grpc::ByteBuffer incoming_;  // gRPC's while reading_

  std::mutex mutex_;
  std::deque<grpc::ByteBuffer> outbox_;  // guarded by mutex_, as are the next four
  size_t outbox_bytes_ = 0;
  bool writing_ = false;
  bool pump_awaited_ = false;  // OnWriteDone posts Pump
  EventLoop::Clock::time_point write_started_;
  grpc::ByteBuffer outgoing_;  // gRPC's while writing_, once StartWrite was called
  const EventLoop::KeepAlive keep_alive_;
};

}  // namespace caravan
