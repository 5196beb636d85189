// The Worker service: gateways' sessions, status and drain.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "caravan/v1/worker.grpc.pb.h"
#include "worker/engine/engine.h"
#include "worker/metrics.h"
#include "worker/request_validation.h"
#include "worker/service_options.h"
#include "worker/session.h"

namespace caravan {

// Sessions may be opened before a model is served: they are welcomed when it is, or when it is
// clear that none is wanted. A thread of its own reports load and progress ten times a second.
class WorkerService final : public v1::Worker::CallbackService, private WorkerSession::Handler {
 public:
  using Options = WorkerServiceOptions;

  WorkerService(const Options& options, ReplicaView replica, WorkerMetrics* metrics);
  ~WorkerService() override;  // Stop

  // Any thread, all of them.
  void BeginLoad();  // kLoading, from 0 %
  void ReportLoad(int64_t done_bytes, int64_t total_bytes);
  void SetState(WorkerState state);  // where no model is served (yet)
  void Serve(const ServedModel& served);
  // No model is served any more: its engine has stopped. `model` is what sessions are told of it
  // where none was served before. State kUnloaded.
  void Withdraw(const v1::WorkerModel& model);
  // An epoch formed: sessions are welcomed again.
  void OnEpoch();
  // The engine's EventSink: one message a session for all events of a step.
  void Deliver(const std::vector<TokenEvent>& events);
  // Tells all gateways to send nothing new, and is not ready from now on.
  void GoAway(const std::string& reason, absl::Duration drain_timeout);
  // Ends all sessions and the reporting thread.
  void Stop();
  size_t num_sessions();
  // After GoAway: waits until all gateways have read what they were waiting for, or are gone; false
  // at the time-out.
  bool AwaitGateways(absl::Duration timeout);

  grpc::ServerBidiReactor<v1::WorkerSessionRequest, v1::WorkerSessionResponse>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetWorkerStatusRequest* request,
                                      v1::GetWorkerStatusResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse* response) override;

 private:
  // A request that the engine has, and whose it is.
  struct Active {
    std::shared_ptr<WorkerSession> session;  // null once the session is gone
    uint64_t client_key = 0;
    uint32_t attempt = 0;
    int32_t unfinished = 0;  // samples
    int32_t num_logprobs = -1;
    std::string request_id;  // for the log line at its end
    std::string traceparent;
    size_t num_tokens = 0;
  };
  struct DrainCall {
    grpc::ServerUnaryReactor* reactor;
    absl::Time deadline;
  };

  void OnSessionMessage(const std::shared_ptr<WorkerSession>& session,
                        const v1::WorkerSessionRequest& message) override;
  void OnSessionClosed(const std::shared_ptr<WorkerSession>& session) override;
  void OnSubmit(const std::shared_ptr<WorkerSession>& session, const v1::WorkerSubmit& submit);
  void OnCancelRequest(const std::shared_ptr<WorkerSession>& session, uint64_t client_key);
  void OnDone(const std::shared_ptr<WorkerSession>& session);
  absl::Status Submit(const std::shared_ptr<WorkerSession>& session,
                      const v1::WorkerSubmit& submit);

  v1::WorkerSessionResponse NewMessage() const;
  void Report();  // the reporting thread
  std::shared_ptr<Engine> engine();
  void Control(bool load, uint64_t number, std::function<void(const grpc::Status&)> done);
  // From here on REQUIRES: mutex_.
  v1::WorkerSessionResponse WelcomeMessage();
  v1::WorkerSessionResponse GoAwayMessage();
  bool IsWelcoming() const { return !served_.model.name().empty(); }
  v1::WorkerLoad LoadLocked();
  v1::WorkerModelStatus ModelStatusLocked() const;
  EngineStats StatsLocked() const;
  bool MakesProgressLocked(const EngineStats& stats);
  WorkerState StateLocked();
  void ReportOnce(std::unique_lock<std::mutex>& lock);
  void AnswerDrains(bool stopping);

  const Options options_;
  const ReplicaView replica_;
  WorkerMetrics* const metrics_;

  std::mutex mutex_;  // guards all below; taken before a session's own
  std::condition_variable stop_;
  std::condition_variable gateway_done_;
  WorkerState state_ = WorkerState::kLoading;
  int64_t loaded_bytes_ = 0;
  int64_t total_bytes_ = 0;
  absl::Time load_start_ = absl::Now();
  double load_bytes_per_second_ = 0;
  ServedModel served_;
  EngineStats past_;  // counters of engines that are gone
  SubmitLimits limits_;
  std::string drain_reason_;
  absl::Duration drain_timeout_;
  std::set<std::shared_ptr<WorkerSession>> sessions_;
  absl::flat_hash_map<RequestKey, Active> active_;
  RequestKey next_key_ = 1;
  v1::WorkerLoad last_load_;
  absl::Time last_load_time_;
  bool load_is_due_ = false;  // a session was told another one since
  bool last_ready_ = false;
  bool failed_ = false;
  uint64_t last_step_progress_ = 0;
  absl::Time last_progress_ = absl::Now();
  std::vector<DrainCall> drains_;
  bool stopping_ = false;
  std::thread reporter_;
};

}  // namespace caravan
