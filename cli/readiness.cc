#include "cli/readiness.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/server.h"

namespace caravan {
namespace {

constexpr absl::Duration kAskTimeout = absl::Milliseconds(300);

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + kAskTimeout));
}

}  // namespace

ReadinessProbe::ReadinessProbe(const std::vector<std::string>& leaders,
                               const std::string& gateway) {
  for (const std::string& leader : leaders) {
    leaders_.push_back(v1::Worker::NewStub(MakeChannel(leader)));
  }
  const std::shared_ptr<grpc::Channel> channel = MakeChannel(gateway);
  gateway_health_ = grpc::health::v1::Health::NewStub(channel);
  gateway_ = v1::Generation::NewStub(channel);
}

LoadProgress ReadinessProbe::Ask() {
  LoadProgress progress;
  progress.fraction = 1;
  for (const auto& leader : leaders_) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::GetWorkerStatusResponse status;
    if (!leader->GetStatus(&context, {}, &status).ok()) {
      progress.fraction = 0;
      continue;
    }
    const bool is_ready = status.state() == "ready";
    progress.fraction = std::min(progress.fraction, is_ready ? 1.0 : status.loaded_fraction());
    progress.bytes_per_second += status.load_bytes_per_second();
    progress.ready_replicas += is_ready ? 1 : 0;
  }
  ready_ = progress.ready_replicas == static_cast<int>(leaders_.size()) && GatewayServesAll();
  return progress;
}

bool ReadinessProbe::GatewayServesAll() {
  grpc::ClientContext health_context;
  SetDeadline(&health_context);
  grpc::health::v1::HealthCheckResponse health;
  if (!gateway_health_->Check(&health_context, {}, &health).ok() ||
      health.status() != grpc::health::v1::HealthCheckResponse::SERVING) {
    return false;
  }
  grpc::ClientContext models_context;
  SetDeadline(&models_context);
  v1::ListModelsResponse models;
  if (!gateway_->ListModels(&models_context, {}, &models).ok()) return false;
  size_t ready_replicas = 0;
  for (const v1::ModelInfo& model : models.models()) {
    for (const v1::ReplicaInfo& replica : model.replicas()) {
      ready_replicas += replica.ready() ? 1 : 0;
    }
  }
  return ready_replicas == leaders_.size();
}

}  // namespace caravan
