// A Generation service that answers as a script says.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "caravan/v1/generation.grpc.pb.h"
#include "common/server.h"

namespace caravan {

class FakeGateway : public v1::Generation::Service {
 public:
  using Writer = grpc::ServerWriter<v1::GenerateResponse>;
  // What the n-th call (from 0) does with its request.
  using Script = std::function<grpc::Status(int call, const v1::GenerateRequest&,
                                            grpc::ServerContext*, Writer*)>;

  explicit FakeGateway(Script script) : script_(std::move(script)) {
    server_ = *GrpcServer::Start({}, {this});
  }
  ~FakeGateway() override { server_->Shutdown(absl::Now()); }

  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }

  std::vector<v1::GenerateRequest> requests() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        Writer* writer) override {
    int call = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call = static_cast<int>(requests_.size());
      requests_.push_back(*request);
    }
    return script_(call, *request, context, writer);
  }

  static void WriteStarted(Writer* writer, uint64_t seed) {
    v1::GenerateResponse response;
    response.mutable_started()->set_request_id("r");
    response.mutable_started()->set_seed(seed);
    response.mutable_started()->set_prompt_tokens(3);
    writer->Write(response);
  }
  static void WriteToken(Writer* writer, int position, int32_t id) {
    v1::GenerateResponse response;
    response.mutable_tokens()->set_first_position(position);
    response.mutable_tokens()->set_num_tokens(1);
    response.mutable_tokens()->set_text(absl::StrCat(id, " "));
    response.mutable_tokens()->add_token_ids(id);
    writer->Write(response);
  }
  static void WriteFinished(Writer* writer, int generated) {
    v1::GenerateResponse response;
    response.mutable_finished()->set_reason(v1::Finished::LENGTH);
    response.mutable_finished()->set_generated_tokens(generated);
    writer->Write(response);
  }

 private:
  Script script_;
  std::mutex mutex_;
  std::vector<v1::GenerateRequest> requests_;
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace caravan
