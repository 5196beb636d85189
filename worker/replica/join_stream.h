// The leader's end of one follower's Join stream.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "caravan/v1/replica.grpc.pb.h"

namespace caravan {

// Messages in both directions; nothing here blocks. It owns itself until the stream has ended.
class JoinStream final : public grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage> {
 public:
  // Called on gRPC's threads, one at a time for one stream, OnStreamClosed last.
  class Handler {
   public:
    virtual ~Handler() = default;
    virtual void OnFollowerMessage(const std::shared_ptr<JoinStream>& stream,
                                   const v1::FollowerMessage& message) = 0;
    virtual void OnStreamClosed(const std::shared_ptr<JoinStream>& stream) = 0;
  };

  // `handler` outlives the stream.
  static std::shared_ptr<JoinStream> Open(grpc::CallbackServerContext* context, Handler* handler);
  void Start();

  // Any thread; without effect once the stream is closing.
  void Send(v1::LeaderMessage message);
  // The same, but dropped where the follower has not read what came before.
  void SendIfIdle(v1::LeaderMessage message);
  // Ends the stream: once what was sent is read, or at once.
  void Close();
  void Break();

  std::string peer() const { return context_->peer(); }

 private:
  JoinStream(grpc::CallbackServerContext* context, Handler* handler)
      : context_(context), handler_(handler) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void End(bool drop);
  bool BeginWrite();  // REQUIRES: mutex_; true: then StartWrite(&out_)

  grpc::CallbackServerContext* const context_;
  Handler* const handler_;
  std::shared_ptr<JoinStream> self_;  // until OnDone
  v1::FollowerMessage in_;

  std::mutex mutex_;  // guards all below
  std::deque<v1::LeaderMessage> queue_;
  v1::LeaderMessage out_;  // being written
  bool writing_ = false;
  bool closing_ = false;
};

}  // namespace caravan
