// The one multiplexed session to a replica's leader: requests and cancels down, token events up.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "caravan/v1/worker.grpc.pb.h"
#include "gateway/client_stream.h"
#include "gateway/event_loop.h"
#include "gateway/metrics.h"

namespace caravan {

// Gets what a worker says of one request. On the loop; may call the session back.
class WorkerEventHandler {
 public:
  virtual ~WorkerEventHandler() = default;
  virtual void OnWorkerEvent(const v1::WorkerTokenEvent& event) = 0;
  // The session broke: no event will come any more. `why` names the replica.
  virtual void OnWorkerLost(const absl::Status& why) = 0;
};

// Loop thread only. Connects, and again with growing pauses (50 ms to 1 s) whenever the stream
// breaks. Events of another instance or an older epoch than the last welcome's are dropped.
class WorkerSession
    : private ClientStream<v1::WorkerSessionRequest, v1::WorkerSessionResponse>::Handler {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    // Welcomed, lost, or ready() or the model's status changed. `cache_lost`: it is another
    // instance or epoch.
    virtual void OnReplicaChanged(WorkerSession* session, bool cache_lost) = 0;
  };

  // `id` is its number in the pool.
  WorkerSession(EventLoop* loop, int id, const std::string& address, Listener* listener,
                GatewayMetrics* metrics);
  ~WorkerSession() override;

  void Start();

  // REQUIRES: connected(). `handler` gets the events of submit.key() until Forget or Cancel.
  void Submit(v1::WorkerSubmit submit, WorkerEventHandler* handler);
  // Tells the worker and forgets the handler. An unknown key is ignored.
  void Cancel(uint64_t key);
  // The request is over: events that still come for it are dropped.
  void Forget(uint64_t key) {
    handlers_.erase(key);
    SayIfDone();
  }

  int id() const { return id_; }
  const std::string& address() const { return address_; }
  // Welcomed on the present stream.
  bool connected() const { return connected_; }
  // New requests may be sent: an epoch stands, steps make progress, it is not leaving, and it was
  // heard lately. Requests of a silent replica stay there: it may go on.
  bool ready() const { return connected_ && load_.ready() && !draining_ && !silent_; }
  // Requests there: as reported, or as we sent, whichever is more.
  int num_requests() const;
  // The last welcome, kept while the replica is away.
  const v1::WorkerModel& model() const { return model_; }
  const v1::WorkerLoad& load() const { return load_; }
  uint64_t instance() const { return instance_; }
  uint64_t epoch() const { return epoch_; }
  double generated_tokens_per_second() const;
  v1::Worker::Stub* stub() const { return stub_.get(); }

 private:
  using Stream = ClientStream<v1::WorkerSessionRequest, v1::WorkerSessionResponse>;

  void Connect();
  void OnMessage(v1::WorkerSessionResponse response) override;
  void OnClosed(const grpc::Status& status) override;
  void OnWelcome(const v1::WorkerSessionResponse& response);
  void OnEvents(const v1::WorkerEvents& events);
  void SetLoad(const v1::WorkerLoad& load);
  void ExpectHeartbeats(std::chrono::milliseconds interval);
  void SetSilent(bool silent);
  void SayIfDone();

  EventLoop* const loop_;
  const int id_;
  const std::string address_;
  Listener* const listener_;
  GatewayMetrics* const metrics_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  std::shared_ptr<Stream> stream_;
  EventLoop::TimerId reconnect_timer_;
  std::chrono::milliseconds reconnect_pause_;
  bool connected_ = false;
  bool draining_ = false;
  bool awaits_done_ = false;  // the worker leaves, and waits for us to have read all
  bool silent_ = false;       // longer than its heartbeats allow
  bool heard_ = false;        // since the heartbeat timer's last turn
  int silent_turns_ = 0;
  EventLoop::TimerId heartbeat_timer_;
  bool loss_logged_ = false;
  uint64_t instance_ = 0;
  uint64_t epoch_ = 0;
  v1::WorkerModel model_;
  v1::WorkerLoad load_;
  std::deque<std::pair<EventLoop::Clock::time_point, uint64_t>> generated_;  // last seconds
  absl::flat_hash_map<uint64_t, WorkerEventHandler*> handlers_;
};

}  // namespace caravan
