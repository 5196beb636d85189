// All requests of a gateway: takes validated ones in, keeps each until it has ended.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "gateway/admission.h"
#include "gateway/config.h"
#include "gateway/event_loop.h"
#include "gateway/generation/generation.h"
#include "gateway/generation/output_sink.h"
#include "gateway/generation/request.h"
#include "gateway/generation/tokenizer_client.h"
#include "gateway/metrics.h"
#include "gateway/replica_pool.h"

namespace caravan {

// Loop thread only, where nothing else is said; constructed and destroyed there too. The front
// doors hold a pointer to it.
class Dispatcher {
 public:
  Dispatcher(EventLoop* loop, const GatewayConfig& config, GatewayMetrics* metrics);
  ~Dispatcher();

  // Connects to replicas and tokenizers. `on_reached` is called once, when the first of each has
  // been reached.
  void Start(std::function<void()> on_reached);

  // What requests are validated against. Any thread.
  std::shared_ptr<const ServedModels> models() const { return replicas_.models(); }

  // Begins a request. The sink is told of everything, refusals included, maybe before this
  // returns. The handle is for Cancel and Detach, on the loop.
  std::shared_ptr<Generation> Begin(ValidatedRequest request, OutputSink* sink);

  // Whether requests of the model are here that have not ended.
  bool IsBusy(const std::string& model) const;

  // Of the tokenizers; nullptr before one was reached.
  const std::shared_ptr<const Vocabulary>& vocabulary() const { return tokenizer_.vocabulary(); }

  ReplicaPool& replicas() { return replicas_; }
  TokenizerClient& tokenizer() { return tokenizer_; }
  bool draining() const { return draining_; }
  // Requests that have not ended, or whose output still waits for the client.
  size_t num_unfinished() const;

  // New requests are refused with UNAVAILABLE from now on; `on_idle` is called once, when none is
  // unfinished.
  void Drain(std::function<void()> on_idle);
  // Ends all that is left.
  void EndAll(const absl::Status& status);

 private:
  void OnChange();
  void OnEnded(uint64_t id);
  void EndQueued(const std::string& model, const absl::Status& status);
  Admission& AdmissionOf(const std::string& model);
  void CountLoad();
  void TellIfIdle();

  EventLoop* const loop_;
  const AdmissionLimits limits_;
  GatewayMetrics* const metrics_;
  std::function<void()> on_reached_;
  std::function<void()> on_idle_;
  bool draining_ = false;
  ReplicaPool replicas_;
  TokenizerClient tokenizer_;
  const GenerationContext context_;
  uint64_t next_id_ = 1;
  std::map<std::string, std::shared_ptr<Admission>> admissions_;  // by model; nobody else owns them
  std::map<std::string, int> num_of_model_;                       // of generations_
  absl::flat_hash_map<uint64_t, std::shared_ptr<Generation>> generations_;
};

}  // namespace caravan
