#include "gateway/native/service.h"

#include <memory>
#include <vector>

#include "gateway/grpc_call.h"
#include "gateway/native/generate_reactor.h"

namespace caravan {

NativeService::NativeService(const NativeContext& native) : native_(native) {
  constexpr int kListModels = 2;  // its place in the service
  grpc::Service::MarkMethodCallback(kListModels,
                                    HandlerOf<v1::ListModelsRequest, v1::ListModelsResponse>(
                                        [this](auto* call, const auto* request, auto* response) {
                                          return ListModels(call, request, response);
                                        }));
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* NativeService::Generate(
    grpc::CallbackServerContext* call, const grpc::ByteBuffer* request) {
  return GenerateReactor::Start(&native_, call, *request);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* NativeService::Session(
    grpc::CallbackServerContext* call) {
  return SessionReactor::Start(&native_, &sessions_, call);
}

grpc::ServerUnaryReactor* NativeService::ListModels(grpc::CallbackServerContext* call,
                                                    const v1::ListModelsRequest* request,
                                                    v1::ListModelsResponse* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  native_.loop->Post([this, reactor, response] {
    native_.dispatcher->replicas().FetchStatus(
        [reactor, response](const std::vector<ReplicaStatus>& replicas) {
          *response = ToProto(replicas);
          reactor->Finish(grpc::Status::OK);
        });
  });
  return reactor;
}

void NativeService::GoAway(const std::string& reason, uint32_t drain_timeout_ms) {
  for (const auto& [session, weak] : sessions_) session->GoAway(reason, drain_timeout_ms);
}

}  // namespace caravan
