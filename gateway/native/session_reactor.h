// Generation.Session: many requests on one call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "caravan/v1/generation.grpc.pb.h"
#include "gateway/native/native_context.h"
#include "gateway/native/output_buffer.h"

namespace caravan {

class SessionReactor;

// One request of a session.
class SessionRequestSink : public OutputSink {
 public:
  SessionRequestSink(SessionReactor* session, const std::string& id, OutputBuffer buffer)
      : session_(session), id_(id), buffer_(std::move(buffer)) {}

  void OnStarted(const StartedInfo& started) override;
  absl::Status OnChunk(OutputChunk chunk) override;
  void OnSampleEnd(SampleEnd end) override;
  void OnEnd(const absl::Status& status, InflightPlace place) override;

 private:
  friend class SessionReactor;

  SessionReactor* const session_;
  const std::string id_;
  OutputBuffer buffer_;
  std::shared_ptr<Generation> generation_;
  InflightPlace place_;                 // once it has ended
  EventLoop::Clock::time_point moved_;  // when it ended, or a message of it left since
  bool started_ = false;
  bool ended_ = false;
  bool has_turn_ = false;  // stands in the session's turns_
};

// Requests take turns at the stream, a message each. gRPC's callbacks post to the loop, where the
// state is; the messages that are ready to go stand in a short outbox, which the callbacks empty
// under a lock of its own. The next message is read once the last was handled and the client reads
// its refusals, so a client that only writes is slowed, not buffered. A client that takes nothing
// for slow_reader_timeout_ms while something waits to be written loses the stream, and a request
// that has ended and gets no credit for so long loses what waits of it: places in flight come back.
class SessionReactor : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // The sessions of a server; touched on the loop only.
  using Registry = absl::flat_hash_map<SessionReactor*, std::weak_ptr<SessionReactor>>;

  static SessionReactor* Start(const NativeContext* native, Registry* registry,
                               grpc::CallbackServerContext* call);

  // Loop only. Tells the client to leave; the stream ends when its requests have.
  void GoAway(const std::string& reason, uint32_t drain_timeout_ms);

 private:
  friend class SessionRequestSink;
  static constexpr size_t kMaxOutbox = 64;
  static constexpr size_t kLowOutbox = 16;
  static constexpr size_t kMaxNotices = 256;

  SessionReactor(const NativeContext* native, Registry* registry,
                 grpc::CallbackServerContext* call);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void RefuseMalformed(std::string id, const absl::Status& status);
  void ParseStart(v1::GenerateRequest request);
  void HandleStart(ValidatedRequest request, OutputView view);
  void HandleCancel(const std::string& id);
  void HandleCredit(const std::string& id, uint32_t tokens);
  void Refuse(const std::string& id, const absl::Status& status);
  void ReadNext();
  void GiveTurn(SessionRequestSink* request);
  void PumpSoon();
  void Pump();
  bool NextMessage(v1::SessionResponse* message);
  void WriteNext();
  void WatchSlowReader();
  void WatchSlowReader(EventLoop::Clock::time_point since);
  void CheckSlowReader();
  void FinishIfOver();
  void CancelAll();

  const NativeContext* const native_;
  Registry* const registry_;
  grpc::CallbackServerContext* const call_;  // until gRPC is done
  const CallInfo call_info_;
  std::shared_ptr<SessionReactor> self_;  // until gRPC is done
  // Loop only.
  absl::flat_hash_map<std::string, std::unique_ptr<SessionRequestSink>> requests_;
  std::deque<SessionRequestSink*> turns_;
  std::deque<v1::SessionResponse> notices_;  // refusals and GoAway
  bool pump_posted_ = false;
  bool reading_ = true;  // a read is under way, or its message is being handled
  bool half_closed_ = false;
  bool going_away_ = false;
  bool cancelled_ = false;
  bool finished_ = false;  // Finish was called
  bool watching_ = false;  // slow_reader_timer_ runs
  EventLoop::TimerId slow_reader_timer_;
  grpc::ByteBuffer incoming_;  // gRPC's while reading
  std::mutex mutex_;
  std::deque<v1::SessionResponse> outbox_;      // guarded by mutex_
  bool writing_ = false;                        // guarded by mutex_
  bool any_written_ = false;                    // guarded by mutex_
  EventLoop::Clock::time_point write_started_;  // guarded by mutex_, with writing_
  grpc::ByteBuffer outgoing_;                   // gRPC's while writing_
  const EventLoop::KeepAlive keep_alive_;
};

}  // namespace caravan
