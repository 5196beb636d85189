#include "gateway/triton/grpc/service.h"

#include <utility>

#include "absl/functional/any_invocable.h"
#include "common/server.h"
#include "common/status.h"
#include "gateway/grpc_call.h"
#include "gateway/triton/grpc/infer_reactor.h"
#include "gateway/triton/grpc/translate.h"

namespace caravan {
namespace {

// Answers a unary call from the loop. Request and response are gRPC's, until Finish.
grpc::ServerUnaryReactor* OnLoop(EventLoop* loop, grpc::CallbackServerContext* call,
                                 absl::AnyInvocable<absl::Status()> answer) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  loop->Post(
      [reactor, answer = std::move(answer)]() mutable { reactor->Finish(ToGrpcStatus(answer())); });
  return reactor;
}

absl::StatusOr<bool> UnloadsDependents(const InferParameters& parameters) {
  bool dependents = false;
  for (const auto& [name, value] : parameters) {
    const bool* flag = std::get_if<bool>(&value);
    if (name != "unload_dependents" || flag == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unload parameter '", name, "' is not known; there is unload_dependents, a bool"));
    }
    dependents = *flag;
  }
  return dependents;
}

}  // namespace

using Reactor = TritonGrpcService::Reactor;

TritonGrpcService::TritonGrpcService(EventLoop* loop, InferenceServer* server,
                                     const StreamLimits& limits)
    : loop_(loop), server_(server), limits_(limits) {
  // In the order of the service, without the two that parse their own messages.
  using Service = TritonGrpcService;
  Answer(0, &Service::ServerLive);
  Answer(1, &Service::ServerReady);
  Answer(2, &Service::ModelReady);
  Answer(3, &Service::ServerMetadata);
  Answer(4, &Service::ModelMetadata);
  Answer(7, &Service::ModelConfig);
  Answer(8, &Service::ModelStatistics);
  Answer(9, &Service::RepositoryIndex);
  Answer(10, &Service::RepositoryModelLoad);
  Answer(11, &Service::RepositoryModelUnload);
  Answer(12, &Service::SystemSharedMemoryStatus);
  Answer(13, &Service::SystemSharedMemoryRegister);
  Answer(14, &Service::SystemSharedMemoryUnregister);
  Answer(15, &Service::CudaSharedMemoryStatus);
  Answer(16, &Service::CudaSharedMemoryRegister);
  Answer(17, &Service::CudaSharedMemoryUnregister);
  Answer(18, &Service::TraceSetting);
  Answer(19, &Service::LogSettings);
}

template <typename Request, typename Response>
void TritonGrpcService::Answer(int index,
                               Reactor* (TritonGrpcService::*method)(Call*, const Request*,
                                                                     Response*)) {
  grpc::Service::MarkMethodCallback(
      index, HandlerOf<Request, Response>(
                 [this, method](Call* call, const Request* request, Response* response) {
                   return (this->*method)(call, request, response);
                 }));
}

Reactor* TritonGrpcService::ServerLive(Call* call, const inference::ServerLiveRequest* request,
                                       inference::ServerLiveResponse* response) {
  return OnLoop(loop_, call, [this, response] {
    response->set_live(server_->Live());
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::ServerReady(Call* call, const inference::ServerReadyRequest* request,
                                        inference::ServerReadyResponse* response) {
  return OnLoop(loop_, call, [this, response] {
    response->set_ready(server_->Ready());
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::ModelReady(Call* call, const inference::ModelReadyRequest* request,
                                       inference::ModelReadyResponse* response) {
  return OnLoop(loop_, call, [this, request, response] {
    response->set_ready(server_->ModelReady(request->name(), request->version()));
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::ServerMetadata(Call* call,
                                           const inference::ServerMetadataRequest* request,
                                           inference::ServerMetadataResponse* response) {
  return OnLoop(loop_, call, [this, response] {
    const caravan::ServerMetadata metadata = server_->Metadata();
    response->set_name(metadata.name);
    response->set_version(metadata.version);
    for (const std::string& extension : metadata.extensions) response->add_extensions(extension);
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::ModelMetadata(Call* call,
                                          const inference::ModelMetadataRequest* request,
                                          inference::ModelMetadataResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const TritonModel* model,
                     server_->FindModel(request->name(), request->version()));
    *response = ModelMetadataOf(*model);
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::ModelInfer(Call* call, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) {
  grpc::ByteBuffer plain = *request;
  if (const absl::Status status = Decompress(limits_.max_message_bytes, &plain); !status.ok()) {
    Reactor* reactor = call->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }
  return InferReactor::Start(loop_, server_, call, plain, response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* TritonGrpcService::ModelStreamInfer(
    Call* call) {
  return StreamReactor::Start(loop_, server_, limits_, &encoder_, call);
}

Reactor* TritonGrpcService::ModelConfig(Call* call, const inference::ModelConfigRequest* request,
                                        inference::ModelConfigResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const TritonModel* model,
                     server_->FindModel(request->name(), request->version()));
    *response->mutable_config() = model->config;
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::ModelStatistics(Call* call,
                                            const inference::ModelStatisticsRequest* request,
                                            inference::ModelStatisticsResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto all, server_->Statistics(request->name(), request->version()));
    for (const caravan::ModelStatistics& model : all) *response->add_model_stats() = ToProto(model);
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::RepositoryIndex(Call* call,
                                            const inference::RepositoryIndexRequest* request,
                                            inference::RepositoryIndexResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto index,
                     server_->RepositoryIndex(request->repository_name(), request->ready()));
    for (const ModelIndexEntry& entry : index) {
      auto* model = response->add_models();
      model->set_name(entry.name);
      model->set_version(entry.version);
      model->set_state(entry.state);
      model->set_reason(entry.reason);
    }
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::RepositoryModelLoad(
    Call* call, const inference::RepositoryModelLoadRequest* request,
    inference::RepositoryModelLoadResponse* response) {
  Reactor* reactor = call->DefaultReactor();
  loop_->Post([this, request, reactor] {
    server_->repository().Load(
        request->repository_name(), request->model_name(), FromProto(request->parameters()),
        [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
  });
  return reactor;
}

Reactor* TritonGrpcService::RepositoryModelUnload(
    Call* call, const inference::RepositoryModelUnloadRequest* request,
    inference::RepositoryModelUnloadResponse* response) {
  Reactor* reactor = call->DefaultReactor();
  loop_->Post([this, request, reactor] {
    const absl::StatusOr<bool> dependents = UnloadsDependents(FromProto(request->parameters()));
    if (!dependents.ok()) return reactor->Finish(ToGrpcStatus(dependents.status()));
    server_->repository().Unload(
        request->repository_name(), request->model_name(), *dependents,
        [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
  });
  return reactor;
}

Reactor* TritonGrpcService::SystemSharedMemoryStatus(
    Call* call, const inference::SystemSharedMemoryStatusRequest* request,
    inference::SystemSharedMemoryStatusResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto regions, server_->SystemMemoryStatus(request->name()));
    for (const auto& region : regions) {
      auto& status = (*response->mutable_regions())[region->name()];
      status.set_name(region->name());
      status.set_key(region->key());
      status.set_offset(region->offset());
      status.set_byte_size(region->byte_size());
    }
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::SystemSharedMemoryRegister(
    Call* call, const inference::SystemSharedMemoryRegisterRequest* request,
    inference::SystemSharedMemoryRegisterResponse* response) {
  return OnLoop(loop_, call, [this, request] {
    return server_->shared_memory().Register(request->name(), request->key(), request->offset(),
                                             request->byte_size());
  });
}

Reactor* TritonGrpcService::SystemSharedMemoryUnregister(
    Call* call, const inference::SystemSharedMemoryUnregisterRequest* request,
    inference::SystemSharedMemoryUnregisterResponse* response) {
  return OnLoop(loop_, call, [this, request] {
    server_->shared_memory().Unregister(SharedMemoryKind::kSystem, request->name());
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::CudaSharedMemoryStatus(
    Call* call, const inference::CudaSharedMemoryStatusRequest* request,
    inference::CudaSharedMemoryStatusResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto regions, server_->CudaMemoryStatus(request->name()));
    for (const auto& region : regions) {
      auto& status = (*response->mutable_regions())[region->name()];
      status.set_name(region->name());
      status.set_device_id(static_cast<uint64_t>(region->device_id()));
      status.set_byte_size(region->byte_size());
    }
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::CudaSharedMemoryRegister(
    Call* call, const inference::CudaSharedMemoryRegisterRequest* request,
    inference::CudaSharedMemoryRegisterResponse* response) {
  Reactor* reactor = call->DefaultReactor();
  loop_->Post([this, request, reactor] {
    server_->RegisterCudaMemory(
        request->name(), request->raw_handle(), request->device_id(), request->byte_size(),
        [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
  });
  return reactor;
}

Reactor* TritonGrpcService::CudaSharedMemoryUnregister(
    Call* call, const inference::CudaSharedMemoryUnregisterRequest* request,
    inference::CudaSharedMemoryUnregisterResponse* response) {
  // Clients' examples begin with it, whether they use regions or not.
  return OnLoop(loop_, call, [this, request] {
    server_->shared_memory().Unregister(SharedMemoryKind::kCuda, request->name());
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::TraceSetting(Call* call, const inference::TraceSettingRequest* request,
                                         inference::TraceSettingResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const TraceSettingValues values,
                     server_->UpdateTraceSettings(request->model_name(), FromProto(*request)));
    *response = ToProto(values);
    return absl::OkStatus();
  });
}

Reactor* TritonGrpcService::LogSettings(Call* call, const inference::LogSettingsRequest* request,
                                        inference::LogSettingsResponse* response) {
  return OnLoop(loop_, call, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const LogSettingValues changes, FromProto(*request));
    ASSIGN_OR_RETURN(const LogSettingValues values, server_->UpdateLogSettings(changes));
    *response = ToProto(values);
    return absl::OkStatus();
  });
}

}  // namespace caravan
