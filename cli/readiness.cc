#include "cli/readiness.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "caravan/v1/tokenizer.grpc.pb.h"
#include "common/server.h"

namespace caravan {
namespace {

constexpr absl::Duration kAskTimeout = absl::Milliseconds(300);
constexpr absl::Duration kCheckTimeout = absl::Seconds(10);

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + kAskTimeout));
}

}  // namespace

ReadinessProbe::ReadinessProbe(const std::vector<std::string>& leaders, const std::string& gateway,
                               bool loaded)
    : loaded_(loaded) {
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
  unloaded_ = false;
  for (const auto& leader : leaders_) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::GetWorkerStatusResponse status;
    if (!leader->GetStatus(&context, {}, &status).ok()) {
      progress.fraction = 0;
      continue;
    }
    const v1::WorkerModelStatus& model = status.load().model_status();
    if (model.state() == v1::WorkerModelStatus::UNLOADED && !model.unload_wanted()) {
      failure_ = absl::FailedPreconditionError(model.reason());
    }
    // By a command (0: none has come), it stays so until another: by a client, or by a gateway
    // whose flags have explicit control.
    unloaded_ |= model.state() == v1::WorkerModelStatus::UNLOADED && model.unload_wanted() &&
                 (!loaded_ || model.command() > 0);
    const bool is_ready = IsUp(status.state());
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
      ready_replicas += IsUp(replica.state()) ? 1 : 0;
    }
  }
  return ready_replicas == leaders_.size();
}

absl::Status CheckVocabularies(const std::string& tokenizer, const std::string& gateway) {
  grpc::ClientContext vocabulary_context;
  vocabulary_context.set_deadline(absl::ToChronoTime(absl::Now() + kCheckTimeout));
  v1::GetVocabularyResponse vocabulary;
  const grpc::Status vocabulary_status = v1::Tokenizer::NewStub(MakeChannel(tokenizer))
                                             ->GetVocabulary(&vocabulary_context, {}, &vocabulary);
  if (!vocabulary_status.ok()) return FromGrpcStatus(vocabulary_status);
  grpc::ClientContext models_context;
  models_context.set_deadline(absl::ToChronoTime(absl::Now() + kCheckTimeout));
  v1::ListModelsResponse models;
  const grpc::Status models_status =
      v1::Generation::NewStub(MakeChannel(gateway))->ListModels(&models_context, {}, &models);
  if (!models_status.ok()) return FromGrpcStatus(models_status);
  for (const v1::ModelInfo& model : models.models()) {
    if (vocabulary.size() <= model.vocabulary_size()) continue;  // models pad theirs
    if (model.vocabulary_size() == 0) continue;                  // none is loaded yet
    return absl::FailedPreconditionError(
        absl::StrCat("the tokenizer of ", model.name(), " has a vocabulary of ", vocabulary.size(),
                     " tokens, its weights only of ", model.vocabulary_size(),
                     " (vocab_size in config.json): tokenizer.model belongs to another model"));
  }
  return absl::OkStatus();
}

}  // namespace caravan
