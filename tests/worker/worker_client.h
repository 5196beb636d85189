// A gateway's side of a worker's session, for tests.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "caravan/v1/worker.grpc.pb.h"

namespace caravan {

// A submit that is valid in every field, for a model named "model".
inline v1::WorkerSubmit MakeSubmit(uint64_t key, int prompt_tokens, uint32_t max_tokens) {
  v1::WorkerSubmit submit;
  submit.set_key(key);
  submit.set_request_id("request-" + std::to_string(key));
  submit.set_model("model");
  for (int i = 0; i < prompt_tokens; ++i) submit.add_prompt_token_ids(1 + i % 7);
  submit.set_num_samples(1);
  v1::WorkerSampling* sampling = submit.mutable_sampling();
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1);
  sampling->set_num_logprobs(-1);
  sampling->set_max_tokens(max_tokens);
  return submit;
}

// What came for one key, samples together.
struct ClientOutput {
  std::vector<int32_t> token_ids;
  int finished_samples = 0;
  v1::WorkerTokenEvent last;
};

class WorkerClient {
 public:
  explicit WorkerClient(const std::string& address)
      : stub_(v1::Worker::NewStub(grpc::CreateCustomChannel(
            address, grpc::InsecureChannelCredentials(), FixedWindows()))) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    stream_ = stub_->Session(&context_);
    v1::WorkerSessionRequest hello;
    hello.mutable_hello()->set_gateway("test");
    stream_->Write(hello);
  }
  ~WorkerClient() {
    context_.TryCancel();
    Finish();
  }

  v1::Worker::Stub& stub() { return *stub_; }

  void Submit(const v1::WorkerSubmit& submit) {
    v1::WorkerSessionRequest request;
    *request.mutable_submit() = submit;
    EXPECT_TRUE(stream_->Write(request));
  }
  void Cancel(uint64_t key) {
    v1::WorkerSessionRequest request;
    request.mutable_cancel()->set_key(key);
    EXPECT_TRUE(stream_->Write(request));
  }
  void Write(const v1::WorkerSessionRequest& request) { stream_->Write(request); }
  void Break() { context_.TryCancel(); }
  void HalfClose() { stream_->WritesDone(); }
  void Done() {
    v1::WorkerSessionRequest request;
    request.mutable_done();
    EXPECT_TRUE(stream_->Write(request));
  }

  // Reads until `done`, or the stream ends (false).
  bool ReadUntil(const std::function<bool()>& done) {
    while (!done()) {
      if (!stream_->Read(&last_)) return false;
      Take();
    }
    return true;
  }
  bool ReadUntilWelcome(int count = 1) {
    return ReadUntil([&] { return welcomes_ >= count; });
  }
  bool ReadUntilTokens(uint64_t key, size_t tokens) {
    return ReadUntil([&] { return outputs_[key].token_ids.size() >= tokens; });
  }
  const ClientOutput& ReadUntilFinished(uint64_t key, int samples = 1) {
    EXPECT_TRUE(ReadUntil([&] { return outputs_[key].finished_samples >= samples; }));
    return outputs_[key];
  }
  grpc::Status Finish() {
    if (stream_ == nullptr) return status_;
    while (stream_->Read(&last_)) Take();
    status_ = stream_->Finish();
    stream_ = nullptr;
    return status_;
  }

  const v1::WorkerSessionResponse& last() const { return last_; }
  const v1::WorkerWelcome& welcome() const { return welcome_; }
  const v1::WorkerLoad& load() const { return load_; }
  const v1::WorkerGoAway& go_away() const { return go_away_; }
  bool going_away() const { return going_away_; }
  const ClientOutput& output(uint64_t key) { return outputs_[key]; }
  int most_events_in_a_message() const { return most_events_; }

 private:
  // gRPC widens a stream's window as it finds more bandwidth: what a client takes in without
  // reading would depend on how busy the machine is.
  static grpc::ChannelArguments FixedWindows() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 16);
    return arguments;
  }

  void Take() {
    switch (last_.message_case()) {
      case v1::WorkerSessionResponse::kWelcome:
        ++welcomes_;
        welcome_ = last_.welcome();
        load_ = welcome_.load();
        break;
      case v1::WorkerSessionResponse::kLoad:
        load_ = last_.load();
        break;
      case v1::WorkerSessionResponse::kGoAway:
        going_away_ = true;
        go_away_ = last_.go_away();
        break;
      case v1::WorkerSessionResponse::kEvents:
        most_events_ = std::max(most_events_, last_.events().events_size());
        for (const v1::WorkerTokenEvent& event : last_.events().events()) {
          ClientOutput& output = outputs_[event.key()];
          output.token_ids.insert(output.token_ids.end(), event.token_ids().begin(),
                                  event.token_ids().end());
          output.finished_samples += event.finish() != v1::WorkerTokenEvent::NONE;
          output.last = event;
        }
        break;
      case v1::WorkerSessionResponse::MESSAGE_NOT_SET:
        ADD_FAILURE() << "a message without content";
        break;
    }
  }

  std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerSessionRequest, v1::WorkerSessionResponse>>
      stream_;
  grpc::Status status_;
  v1::WorkerSessionResponse last_;
  v1::WorkerWelcome welcome_;
  v1::WorkerLoad load_;
  v1::WorkerGoAway go_away_;
  bool going_away_ = false;
  int welcomes_ = 0;
  int most_events_ = 0;
  std::map<uint64_t, ClientOutput> outputs_;
};

}  // namespace caravan
