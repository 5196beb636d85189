// caravan.v1.Generation, the native API.
#pragma once

#include <string>

#include "caravan/v1/generation.grpc.pb.h"
#include "gateway/native/native_context.h"
#include "gateway/native/session_reactor.h"

namespace caravan {

// Lives as long as the server that it is registered with; its context longer.
class NativeService
    : public v1::Generation::WithRawCallbackMethod_Generate<
          v1::Generation::WithRawCallbackMethod_Session<
              v1::Generation::WithCallbackMethod_ListModels<v1::Generation::Service>>> {
 public:
  explicit NativeService(const NativeContext& native);

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* call,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext* call) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* call,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

  // Loop only: every session is told to leave.
  void GoAway(const std::string& reason, uint32_t drain_timeout_ms);

 private:
  const NativeContext native_;
  SessionReactor::Registry sessions_;  // loop only
};

}  // namespace caravan
