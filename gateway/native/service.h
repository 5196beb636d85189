// caravan.v1.Generation, the native API.
#pragma once

#include <string>

#include "caravan/v1/generation.grpc.pb.h"
#include "gateway/native/native_context.h"
#include "gateway/native/session_reactor.h"

namespace caravan {

// Lives as long as the server that it is registered with; its context longer.
class NativeService : public v1::Generation::CallbackService {
 public:
  explicit NativeService(const NativeContext& native) : native_(native) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* call, const v1::GenerateRequest* request) override;
  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* Session(
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
