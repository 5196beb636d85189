// One gateway's stream to this worker.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "caravan/v1/worker.grpc.pb.h"
#include "worker/engine/request.h"

namespace caravan {

// The stream's messages in both directions. Send never blocks: what the gateway has not read yet is
// kept, token events of one epoch joined to one message, and a gateway that lets more than
// `max_tokens` tokens pile up has its stream broken.
class WorkerSession final
    : public grpc::ServerBidiReactor<v1::WorkerSessionRequest, v1::WorkerSessionResponse> {
 public:
  // Called on gRPC's threads, never two at a time for one session, OnSessionClosed last.
  class Handler {
   public:
    virtual ~Handler() = default;
    virtual void OnSessionMessage(const std::shared_ptr<WorkerSession>& session,
                                  const v1::WorkerSessionRequest& message) = 0;
    virtual void OnSessionClosed(const std::shared_ptr<WorkerSession>& session) = 0;
  };

  // The session owns itself until its stream has ended. `handler` outlives it.
  static std::shared_ptr<WorkerSession> Open(grpc::CallbackServerContext* context, Handler* handler,
                                             int64_t max_tokens);
  // Begins to read; once, after the handler knows the session.
  void Start();

  // Any thread; without effect once the stream is closing.
  void Send(v1::WorkerSessionResponse message);
  // Who it is, for logs: as its hello said, cut to 100 bytes.
  void set_gateway(const std::string& name);
  std::string gateway() const;

  // Ends the stream with `status`, once what was sent is read.
  void Close(const grpc::Status& status);
  // Cancels the stream, dropping what was not read.
  void Break(const grpc::Status& status);

  // Of the requests that have not finished: the gateway's key → the engine's. The handler's to
  // guard.
  absl::flat_hash_map<uint64_t, RequestKey> keys;
  // The gateway has read all that it was waiting for from a worker that leaves. The handler's to
  // guard.
  bool done = false;

 private:
  WorkerSession(grpc::CallbackServerContext* context, Handler* handler, int64_t max_tokens)
      : context_(context), handler_(handler), max_tokens_(max_tokens) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  bool Enqueue(v1::WorkerSessionResponse message);  // false: too much is unread
  bool BeginWrite();                                // REQUIRES: mutex_; then StartWrite(&out_)
  void End(const grpc::Status& status, bool drop);

  grpc::CallbackServerContext* const context_;
  Handler* const handler_;
  const int64_t max_tokens_;
  std::shared_ptr<WorkerSession> self_;  // until OnDone
  v1::WorkerSessionRequest in_;

  mutable std::mutex mutex_;  // guards all below
  std::string gateway_ = "unknown";
  std::deque<v1::WorkerSessionResponse> queue_;
  int64_t queued_tokens_ = 0;      // of queue_
  v1::WorkerSessionResponse out_;  // being written
  bool writing_ = false;
  bool closing_ = false;
  grpc::Status status_;
};

}  // namespace caravan
