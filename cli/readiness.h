// Asks the processes of a starting cluster how far they are.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "caravan/v1/generation.grpc.pb.h"
#include "caravan/v1/worker.grpc.pb.h"
#include "cli/cluster.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace caravan {

class ReadinessProbe {
 public:
  // `loaded` false: a replica without a model is as it should be.
  ReadinessProbe(const std::vector<std::string>& leaders, const std::string& gateway, bool loaded);

  // Blocks for at most a fraction of a second.
  LoadProgress Ask();

  // As of the last Ask: every replica is ready, the gateway serves and knows all of them.
  bool ready() const { return ready_; }
  // Why a replica gave up loading, if one did.
  const absl::Status& failure() const { return failure_; }
  // Whether a replica is up without a model, at the start or by a gateway's command.
  bool unloaded() const { return unloaded_; }

 private:
  bool GatewayServesAll();
  bool IsUp(const std::string& state) const {
    return state == "ready" || ((!loaded_ || unloaded_) && state == "unloaded");
  }

  const bool loaded_;
  std::vector<std::unique_ptr<v1::Worker::Stub>> leaders_;
  std::unique_ptr<grpc::health::v1::Health::Stub> gateway_health_;
  std::unique_ptr<v1::Generation::Stub> gateway_;
  bool ready_ = false;
  bool unloaded_ = false;
  absl::Status failure_;
};

// Whether the tokenizer makes no ids that the served models don't have: FAILED_PRECONDITION with
// both sizes if it does.
absl::Status CheckVocabularies(const std::string& tokenizer, const std::string& gateway);

}  // namespace caravan
