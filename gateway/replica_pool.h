// All replicas that the gateway was given, the models they serve, and the choice among them.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "gateway/event_loop.h"
#include "gateway/metrics.h"
#include "gateway/model_commands.h"
#include "gateway/routing.h"
#include "gateway/served_model.h"
#include "gateway/worker_session.h"

namespace caravan {

// What is known of one replica: for ListModels.
struct ReplicaStatus {
  std::string address;
  bool ready = false;
  uint64_t instance = 0;
  uint64_t epoch = 0;
  double generated_tokens_per_second = 0;
  v1::WorkerModel model;  // empty until the first welcome
  v1::WorkerLoad load;
  std::vector<v1::WorkerRank> ranks;  // empty where the replica did not answer in time
};

// Loop thread only, but for models(). All sessions end when it is destroyed (on the loop).
class ReplicaPool : private WorkerSession::Listener {
 public:
  // `on_change` is called on the loop when a replica became ready or stopped being so.
  ReplicaPool(EventLoop* loop, const std::vector<std::string>& addresses, GatewayMetrics* metrics,
              ModelCommands::Options commands, std::function<void()> on_change);
  ~ReplicaPool() override;

  void Start();

  // Every model that a replica has ever welcomed us with, with a vocabulary of 0 where it has not
  // been loaded yet. Any thread.
  std::shared_ptr<const ServedModels> models() const;

  bool HasReady(const std::string& model) const;

  // What loads and unloads models.
  ModelCommands& commands() { return commands_; }
  const ModelCommands& commands() const { return commands_; }

  // The ready replica of the model for this prompt, or nullptr; the prompt counts as sent there.
  // `salt` keeps the caches of tenants apart.
  WorkerSession* Route(const ServedModel& model, std::span<const int32_t> prompt_token_ids,
                       uint64_t salt);

  // Asks each connected replica (at most a second) and calls `done` on the loop.
  void FetchStatus(std::function<void(std::vector<ReplicaStatus>)> done);

 private:
  void OnReplicaChanged(WorkerSession* session, bool cache_lost) override;
  void Publish(const v1::WorkerModel& model, const std::string& address);

  // Bounds the router's memory: 65,536 blocks of 16 tokens are a million tokens a replica, 4 MB.
  static constexpr size_t kMaxRoutingBlocks = 65536;

  EventLoop* const loop_;
  GatewayMetrics* const metrics_;
  const std::function<void()> on_change_;
  std::vector<std::unique_ptr<WorkerSession>> sessions_;
  ModelCommands commands_;
  PrefixRouter router_;
  mutable std::mutex models_mutex_;
  std::shared_ptr<const ServedModels> models_;  // guarded by models_mutex_
};

}  // namespace caravan
