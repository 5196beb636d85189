// A replica's leader in the test's own process: says what the test tells it to.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "caravan/v1/worker.grpc.pb.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {

// Any thread. Await… calls give up (and abort the test program) after 20 s.
class FakeWorker : public v1::Worker::Service {
 public:
  struct Options {
    std::string address = "127.0.0.1:0";
    std::string model = "tiny";
    uint64_t instance = 1;
    uint64_t epoch = 1;
    uint32_t vocabulary_size = 300;
    uint32_t max_context_tokens = 512;
    std::vector<int32_t> eos_token_ids = {2};
    bool ready = true;
    uint32_t heartbeat_ms = 0;
  };
  // Called for each submit, on the session's thread, in place of AwaitSubmit.
  using Script = std::function<void(FakeWorker*, const v1::WorkerSubmit&)>;

  explicit FakeWorker(Options options, Script script = nullptr)
      : options_(std::move(options)), script_(std::move(script)) {
    GrpcServerOptions server_options;
    server_options.listen_address = options_.address;
    auto server = GrpcServer::Start(server_options, {this});
    CARAVAN_CHECK(server.ok(), std::string(server.status().message()));
    server_ = *std::move(server);
  }
  FakeWorker() : FakeWorker(Options()) {}
  ~FakeWorker() override { Stop(); }

  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }

  void Stop() {
    BreakSessions();
    server_->Shutdown(absl::Now());
  }

  // Breaks the streams, as a killed process would.
  void BreakSessions() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [stream, context] : streams_) context->TryCancel();
  }

  v1::WorkerSubmit AwaitSubmit() { return Await(&submits_, "submit"); }
  uint64_t AwaitCancel() { return Await(&cancels_, "cancel"); }
  void AwaitDone() { Await(&dones_, "done"); }
  size_t num_dones() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return dones_.size();
  }
  size_t num_cancels() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return cancels_.size();
  }

  // The next tokens of sample 0 of a request, as the engine would send them.
  void Emit(uint64_t key, const std::vector<int32_t>& ids,
            v1::WorkerTokenEvent::Finish finish = v1::WorkerTokenEvent::NONE) {
    v1::WorkerTokenEvent event;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      event.set_key(key);
      event.set_attempt(attempts_[key]);
      event.set_first_position(positions_[key]);
      positions_[key] += static_cast<uint32_t>(ids.size());
    }
    event.mutable_token_ids()->Add(ids.begin(), ids.end());
    event.set_finish(finish);
    Send(event);
  }
  void Send(const v1::WorkerTokenEvent& event) {
    v1::WorkerSessionResponse response = Response();
    *response.mutable_events()->add_events() = event;
    Send(response);
  }
  // To every session, as it is.
  void Send(const v1::WorkerSessionResponse& response) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [stream, context] : streams_) stream->Write(response);
  }
  v1::WorkerSessionResponse Response() const {
    v1::WorkerSessionResponse response;
    response.set_instance(options_.instance);
    response.set_epoch(options_.epoch);
    return response;
  }
  void GoAway(bool awaits_done) {
    v1::WorkerSessionResponse response = Response();
    response.mutable_go_away()->set_reason("the worker is stopped");
    response.mutable_go_away()->set_awaits_done(awaits_done);
    Send(response);
  }
  void SetReady(bool ready) {
    v1::WorkerSessionResponse response = Response();
    response.mutable_load()->set_ready(ready);
    Send(response);
  }
  v1::WorkerSessionResponse Welcome() const {
    v1::WorkerSessionResponse response = Response();
    v1::WorkerModel* model = response.mutable_welcome()->mutable_model();
    model->set_name(options_.model);
    model->set_architecture("LlamaForCausalLM");
    model->set_dtype("float32");
    model->set_device("cpu");
    model->set_vocabulary_size(options_.vocabulary_size);
    model->set_max_context_tokens(options_.max_context_tokens);
    model->set_tensor_parallel(1);
    model->set_block_tokens(16);
    model->set_total_blocks(1024);
    model->set_fingerprint("tiny-1");
    model->mutable_eos_token_ids()->Add(options_.eos_token_ids.begin(),
                                        options_.eos_token_ids.end());
    response.mutable_welcome()->mutable_load()->set_ready(options_.ready);
    response.mutable_welcome()->set_heartbeat_ms(options_.heartbeat_ms);
    return response;
  }

 private:
  using Stream = grpc::ServerReaderWriter<v1::WorkerSessionResponse, v1::WorkerSessionRequest>;

  grpc::Status Session(grpc::ServerContext* context, Stream* stream) override {
    v1::WorkerSessionRequest request;
    if (!stream->Read(&request) || !request.has_hello()) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "hello first"};
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stream->Write(Welcome());
      streams_.emplace_back(stream, context);
    }
    while (stream->Read(&request)) Handle(request);
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(streams_, [&](const auto& entry) { return entry.first == stream; });
    return grpc::Status::OK;
  }

  void Handle(const v1::WorkerSessionRequest& request) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (request.has_cancel()) cancels_.push_back(request.cancel().key());
      if (request.has_done()) dones_.push_back(true);
      if (request.has_submit()) {
        attempts_[request.submit().key()] = request.submit().attempt();
        positions_[request.submit().key()] = request.submit().num_resumed();
        if (script_ == nullptr) submits_.push_back(request.submit());
      }
    }
    changed_.notify_all();
    if (request.has_submit() && script_ != nullptr) script_(this, request.submit());
  }

  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetWorkerStatusRequest* request,
                         v1::GetWorkerStatusResponse* response) override {
    v1::WorkerRank* rank = response->add_ranks();
    rank->set_host("localhost");
    rank->set_pid(42);
    rank->set_state("ready");
    return grpc::Status::OK;
  }

  template <typename Value>
  Value Await(std::deque<Value>* values, const char* what) {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool came =
        changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !values->empty(); });
    CARAVAN_CHECK(came, "no ", what, " came");
    Value value = std::move(values->front());
    values->pop_front();
    return value;
  }

  const Options options_;
  const Script script_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<Stream*, grpc::ServerContext*>> streams_;
  std::deque<v1::WorkerSubmit> submits_;
  std::deque<uint64_t> cancels_;
  std::deque<bool> dones_;
  std::map<uint64_t, uint32_t> attempts_;
  std::map<uint64_t, uint32_t> positions_;
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace caravan
