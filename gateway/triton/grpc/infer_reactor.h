// GRPCInferenceService.ModelInfer: one request, one response.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "gateway/event_loop.h"
#include "gateway/triton/inference_server.h"

namespace caravan {

// Parses on gRPC's thread; all else is on the loop. The object keeps itself alive until gRPC is
// done with it.
class InferReactor : public grpc::ServerUnaryReactor, private InferSink {
 public:
  static grpc::ServerUnaryReactor* Start(EventLoop* loop, InferenceServer* server,
                                         grpc::CallbackServerContext* call,
                                         const grpc::ByteBuffer& request,
                                         grpc::ByteBuffer* response);

 private:
  InferReactor(EventLoop* loop, InferenceServer* server, grpc::ByteBuffer* response);

  void Begin(InferRequest request);
  void OnInferReady() override;
  void OnCancel() override;
  void OnDone() override;
  void FinishOnce(const absl::Status& status);

  EventLoop* const loop_;
  InferenceServer* const server_;
  grpc::ByteBuffer* const response_;  // gRPC's; until Finish
  std::shared_ptr<InferReactor> self_;
  std::shared_ptr<Inference> inference_;
  bool finished_ = false;
  const EventLoop::KeepAlive keep_alive_;
};

}  // namespace caravan
