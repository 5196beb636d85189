#include "gateway/native/service.h"

#include <memory>
#include <vector>

#include "gateway/native/generate_reactor.h"

namespace caravan {

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
