#include "gateway/triton/grpc/infer_reactor.h"

#include <utility>

#include "common/server.h"
#include "gateway/grpc_call.h"
#include "gateway/triton/grpc/response_encoder.h"
#include "gateway/triton/grpc/translate.h"

namespace caravan {

InferReactor::InferReactor(EventLoop* loop, InferenceServer* server, grpc::ByteBuffer* response)
    : loop_(loop), server_(server), response_(response), keep_alive_(loop) {}

grpc::ServerUnaryReactor* InferReactor::Start(EventLoop* loop, InferenceServer* server,
                                              grpc::CallbackServerContext* call,
                                              const grpc::ByteBuffer& request,
                                              grpc::ByteBuffer* response) {
  std::shared_ptr<InferReactor> reactor(new InferReactor(loop, server, response));
  reactor->self_ = reactor;
  std::string id;
  absl::StatusOr<InferRequest> parsed =
      ParseInferRequest(request, CallInfoOf(*call), /*streaming=*/false, &id);
  loop->Post([reactor, parsed = std::move(parsed)]() mutable {
    if (!parsed.ok()) return reactor->FinishOnce(parsed.status());
    reactor->Begin(*std::move(parsed));
  });
  return reactor.get();
}

void InferReactor::Begin(InferRequest request) {
  if (finished_) return;  // the client left meanwhile
  absl::StatusOr<std::shared_ptr<Inference>> inference = server_->Infer(std::move(request), this);
  if (!inference.ok()) return FinishOnce(inference.status());
  inference_ = *std::move(inference);
}

void InferReactor::OnInferReady() {
  if (finished_ || inference_ == nullptr) return;
  if (!inference_->HasNext()) return FinishOnce(inference_->status());
  absl::StatusOr<InferResponse> response = inference_->Next();
  if (!response.ok()) return FinishOnce(response.status());
  *response_ = ResponseEncoder().Encode(*std::move(response));
  FinishOnce(absl::OkStatus());
}

void InferReactor::FinishOnce(const absl::Status& status) {
  if (std::exchange(finished_, true)) return;
  Finish(ToGrpcStatus(status));
}

void InferReactor::OnCancel() {
  loop_->Post([self = self_] {
    if (self->inference_ != nullptr) self->inference_->Cancel();
    self->FinishOnce(absl::CancelledError("the client cancelled the call"));
  });
}

void InferReactor::OnDone() {
  loop_->Post([self = self_] {
    self->inference_ = nullptr;
    self->self_ = nullptr;
  });
}

}  // namespace caravan
