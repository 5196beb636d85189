// inference.GRPCInferenceService: Triton Inference Server's gRPC API.
#pragma once

#include "gateway/event_loop.h"
#include "gateway/triton/grpc/stream_reactor.h"
#include "gateway/triton/inference_server.h"
#include "inference/grpc_service.grpc.pb.h"

namespace caravan {

namespace internal {

// Every method by callback; those that take requests parse their own messages (grpc_call.h).
using InferenceProto = inference::GRPCInferenceService;
using RawInfer = InferenceProto::WithRawCallbackMethod_ModelInfer<
    InferenceProto::WithRawCallbackMethod_ModelStreamInfer<InferenceProto::Service>>;
using HealthCalls = InferenceProto::WithCallbackMethod_ServerLive<
    InferenceProto::WithCallbackMethod_ServerReady<InferenceProto::WithCallbackMethod_ModelReady<
        InferenceProto::WithCallbackMethod_ServerMetadata<
            InferenceProto::WithCallbackMethod_ModelMetadata<RawInfer>>>>>;
using AboutCalls = InferenceProto::WithCallbackMethod_ModelConfig<
    InferenceProto::WithCallbackMethod_ModelStatistics<HealthCalls>>;
using RepositoryCalls = InferenceProto::WithCallbackMethod_RepositoryIndex<
    InferenceProto::WithCallbackMethod_RepositoryModelLoad<
        InferenceProto::WithCallbackMethod_RepositoryModelUnload<AboutCalls>>>;
using SystemMemoryCalls = InferenceProto::WithCallbackMethod_SystemSharedMemoryStatus<
    InferenceProto::WithCallbackMethod_SystemSharedMemoryRegister<
        InferenceProto::WithCallbackMethod_SystemSharedMemoryUnregister<RepositoryCalls>>>;
using CudaMemoryCalls = InferenceProto::WithCallbackMethod_CudaSharedMemoryStatus<
    InferenceProto::WithCallbackMethod_CudaSharedMemoryRegister<
        InferenceProto::WithCallbackMethod_CudaSharedMemoryUnregister<SystemMemoryCalls>>>;
using AllCalls = InferenceProto::WithCallbackMethod_TraceSetting<
    InferenceProto::WithCallbackMethod_LogSettings<CudaMemoryCalls>>;

}  // namespace internal

// Lives as long as the server that it is registered with; loop and inference server longer. Every
// call is answered on the loop.
class TritonGrpcService : public internal::AllCalls {
 public:
  using Call = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  TritonGrpcService(EventLoop* loop, InferenceServer* server, const StreamLimits& limits);

  Reactor* ServerLive(Call* call, const inference::ServerLiveRequest* request,
                      inference::ServerLiveResponse* response) override;
  Reactor* ServerReady(Call* call, const inference::ServerReadyRequest* request,
                       inference::ServerReadyResponse* response) override;
  Reactor* ModelReady(Call* call, const inference::ModelReadyRequest* request,
                      inference::ModelReadyResponse* response) override;
  Reactor* ServerMetadata(Call* call, const inference::ServerMetadataRequest* request,
                          inference::ServerMetadataResponse* response) override;
  Reactor* ModelMetadata(Call* call, const inference::ModelMetadataRequest* request,
                         inference::ModelMetadataResponse* response) override;
  Reactor* ModelInfer(Call* call, const grpc::ByteBuffer* request,
                      grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ModelStreamInfer(
      Call* call) override;
  Reactor* ModelConfig(Call* call, const inference::ModelConfigRequest* request,
                       inference::ModelConfigResponse* response) override;
  Reactor* ModelStatistics(Call* call, const inference::ModelStatisticsRequest* request,
                           inference::ModelStatisticsResponse* response) override;
  Reactor* RepositoryIndex(Call* call, const inference::RepositoryIndexRequest* request,
                           inference::RepositoryIndexResponse* response) override;
  Reactor* RepositoryModelLoad(Call* call, const inference::RepositoryModelLoadRequest* request,
                               inference::RepositoryModelLoadResponse* response) override;
  Reactor* RepositoryModelUnload(Call* call, const inference::RepositoryModelUnloadRequest* request,
                                 inference::RepositoryModelUnloadResponse* response) override;
  Reactor* SystemSharedMemoryStatus(Call* call,
                                    const inference::SystemSharedMemoryStatusRequest* request,
                                    inference::SystemSharedMemoryStatusResponse* response) override;
  Reactor* SystemSharedMemoryRegister(
      Call* call, const inference::SystemSharedMemoryRegisterRequest* request,
      inference::SystemSharedMemoryRegisterResponse* response) override;
  Reactor* SystemSharedMemoryUnregister(
      Call* call, const inference::SystemSharedMemoryUnregisterRequest* request,
      inference::SystemSharedMemoryUnregisterResponse* response) override;
  Reactor* CudaSharedMemoryStatus(Call* call,
                                  const inference::CudaSharedMemoryStatusRequest* request,
                                  inference::CudaSharedMemoryStatusResponse* response) override;
  Reactor* CudaSharedMemoryRegister(Call* call,
                                    const inference::CudaSharedMemoryRegisterRequest* request,
                                    inference::CudaSharedMemoryRegisterResponse* response) override;
  Reactor* CudaSharedMemoryUnregister(
      Call* call, const inference::CudaSharedMemoryUnregisterRequest* request,
      inference::CudaSharedMemoryUnregisterResponse* response) override;
  Reactor* TraceSetting(Call* call, const inference::TraceSettingRequest* request,
                        inference::TraceSettingResponse* response) override;
  Reactor* LogSettings(Call* call, const inference::LogSettingsRequest* request,
                       inference::LogSettingsResponse* response) override;

 private:
  // The method of this number takes compressed requests, too.
  template <typename Request, typename Response>
  void Answer(int index, Reactor* (TritonGrpcService::*method)(Call*, const Request*, Response*));

  EventLoop* const loop_;
  InferenceServer* const server_;
  const StreamLimits limits_;
  ResponseEncoder encoder_;  // of all streams, on the loop: its buffer stays in the cache
};

}  // namespace caravan
