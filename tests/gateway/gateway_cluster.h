// A gateway with fake workers and tokenizers around it, and clients that say what they saw.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "caravan/v1/generation.grpc.pb.h"
#include "common/server.h"
#include "common/status.h"
#include "gateway/gateway.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/gateway/fake_tokenizer.h"
#include "tests/gateway/fake_worker.h"

namespace caravan {

inline v1::GenerateRequest TextRequest(const std::string& text, uint32_t max_tokens = 100) {
  v1::GenerateRequest request;
  request.add_prompt()->set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_output()->set_token_ids(true);
  return request;
}

// Everything that came for one request.
struct Seen {
  v1::Started started;
  std::string text;
  std::vector<int32_t> ids;
  std::vector<v1::TokenEvent> events;
  v1::Finished finished;
  grpc::Status status;

  void Add(const v1::GenerateResponse& response) {
    if (response.has_started()) started = response.started();
    if (response.has_finished()) finished = response.finished();
    if (!response.has_tokens()) return;
    events.push_back(response.tokens());
    text.append(response.tokens().text());
    ids.insert(ids.end(), response.tokens().token_ids().begin(),
               response.tokens().token_ids().end());
  }
};

// A Generate call under way.
class GenerateCall {
 public:
  GenerateCall(v1::Generation::Stub* stub, const v1::GenerateRequest& request,
               const std::string& request_id = "") {
    if (!request_id.empty()) context_.AddMetadata(kRequestIdKey, request_id);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    reader_ = stub->Generate(&context_, request);
  }

  // The next message, added to what was seen; false at the end, when the status stands.
  bool Read() {
    v1::GenerateResponse response;
    if (!reader_->Read(&response)) {
      seen_.status = reader_->Finish();
      return false;
    }
    seen_.Add(response);
    return true;
  }
  const Seen& ReadAll() {
    while (Read()) {
    }
    return seen_;
  }
  const Seen& seen() const { return seen_; }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  Seen seen_;
};

class Cluster {
 public:
  explicit Cluster(GatewayConfig config = {},
                   const std::vector<FakeWorker::Options>& workers = {{}},
                   const FakeWorker::Script& script = nullptr, int num_tokenizers = 1) {
    for (const FakeWorker::Options& options : workers) {
      workers_.push_back(std::make_unique<FakeWorker>(options, script));
      config.replicas.push_back(workers_.back()->address());
    }
    for (int i = 0; i < num_tokenizers; ++i) {
      tokenizers_.push_back(std::make_unique<FakeTokenizer>());
      config.tokenizers.push_back(tokenizers_.back()->address());
    }
    config.listen_address = "127.0.0.1:0";
    config.http_address = "127.0.0.1:0";
    config.metrics_address = "";  // its thread takes two seconds to stop
    auto gateway = Gateway::Start(config);
    CARAVAN_CHECK(gateway.ok(), std::string(gateway.status().message()));
    gateway_ = *std::move(gateway);
    channel_ = MakeChannel(absl::StrCat("127.0.0.1:", gateway_->port()));
    stub_ = v1::Generation::NewStub(channel_);
    AwaitServing(true);
  }

  // Until the health service says so.
  void AwaitServing(bool serving) {
    grpc::ClientContext context;
    auto watch = grpc::health::v1::Health::NewStub(channel_)->Watch(
        &context, grpc::health::v1::HealthCheckRequest());
    grpc::health::v1::HealthCheckResponse response;
    while (watch->Read(&response)) {
      if ((response.status() == grpc::health::v1::HealthCheckResponse::SERVING) == serving) break;
    }
    context.TryCancel();
  }
  // Until so many replicas are ready in the gateway's eyes.
  void AwaitReady(int count) {
    Await([=, this] { return gateway_->metrics().replicas_ready.Value() == count; });
  }
  // Until no call is open.
  void AwaitNoCalls() {
    Await([this] { return gateway_->metrics().open_calls.Value() == 0; });
  }

  // Until so many requests are in flight and waiting.
  void AwaitInflight(int inflight, int queued) {
    Await([=, this] {
      return gateway_->metrics().inflight_requests.Value() == inflight &&
             gateway_->metrics().queued_requests.Value() == queued;
    });
  }

  FakeWorker& worker(int i = 0) { return *workers_[i]; }
  FakeTokenizer& tokenizer(int i = 0) { return *tokenizers_[i]; }
  Gateway& gateway() { return *gateway_; }
  v1::Generation::Stub* stub() { return stub_.get(); }
  // A client whose connection takes little ahead of what it reads.
  std::unique_ptr<v1::Generation::Stub> StubOfSmallWindow() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 10);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::Generation::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", gateway_->port()),
                                  grpc::InsecureChannelCredentials(), arguments));
  }
  std::unique_ptr<GenerateCall> Generate(const v1::GenerateRequest& request,
                                         const std::string& request_id = "") {
    return std::make_unique<GenerateCall>(stub_.get(), request, request_id);
  }
  void DestroyGateway() { gateway_ = nullptr; }

  // Where tests can only look again and again.
  static void Await(const std::function<bool()>& condition) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      CARAVAN_CHECK(std::chrono::steady_clock::now() < give_up, "it never came to pass");
      std::this_thread::yield();
    }
  }

 private:
  std::vector<std::unique_ptr<FakeWorker>> workers_;
  std::vector<std::unique_ptr<FakeTokenizer>> tokenizers_;
  std::unique_ptr<Gateway> gateway_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

}  // namespace caravan
