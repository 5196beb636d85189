#include "gateway/replica_pool.h"

#include <utility>

#include "common/log.h"
#include "common/status.h"

namespace caravan {
namespace {

// One fan-out of GetStatus; lives until the last answer.
struct StatusCalls {
  struct Call {
    grpc::ClientContext context;
    v1::GetWorkerStatusRequest request;
    v1::GetWorkerStatusResponse response;
  };
  explicit StatusCalls(EventLoop* loop) : keep_alive(loop) {}

  std::vector<ReplicaStatus> statuses;
  std::vector<std::unique_ptr<Call>> calls;  // one a replica, nullptr where it is not connected
  size_t num_unanswered = 0;
  std::function<void(std::vector<ReplicaStatus>)> done;
  const EventLoop::KeepAlive keep_alive;
};

}  // namespace

ReplicaPool::ReplicaPool(EventLoop* loop, const std::vector<std::string>& addresses,
                         GatewayMetrics* metrics, ModelCommands::Options commands,
                         std::function<void()> on_change)
    : loop_(loop),
      metrics_(metrics),
      on_change_(std::move(on_change)),
      commands_(loop, &sessions_, std::move(commands)),
      router_(kMaxRoutingBlocks),
      models_(std::make_shared<ServedModels>()) {
  for (const std::string& address : addresses) {
    const int id = static_cast<int>(sessions_.size());
    sessions_.push_back(std::make_unique<WorkerSession>(
        loop, id, address, static_cast<WorkerSession::Listener*>(this), metrics));
  }
}

ReplicaPool::~ReplicaPool() = default;

void ReplicaPool::Start() {
  for (const auto& session : sessions_) session->Start();
}

std::shared_ptr<const ServedModels> ReplicaPool::models() const {
  const std::lock_guard<std::mutex> lock(models_mutex_);
  return models_;
}

bool ReplicaPool::HasReady(const std::string& model) const {
  for (const auto& session : sessions_) {
    if (session->ready() && session->model().name() == model) return true;
  }
  return false;
}

WorkerSession* ReplicaPool::Route(const ServedModel& model,
                                  std::span<const int32_t> prompt_token_ids, uint64_t salt) {
  std::vector<PrefixRouter::Candidate> candidates;
  for (const auto& session : sessions_) {
    if (!session->ready() || session->model().name() != model.name) continue;
    candidates.push_back({session->id(), session->num_requests()});
  }
  if (candidates.empty()) return nullptr;
  const std::vector<uint64_t> hashes = HashPromptBlocks(prompt_token_ids, model.block_tokens, salt);
  const int chosen = router_.Choose(hashes, model.block_tokens, candidates);
  router_.Record(chosen, hashes);
  return sessions_[chosen].get();
}

void ReplicaPool::OnReplicaChanged(WorkerSession* session, bool cache_lost) {
  if (cache_lost) router_.Forget(session->id());
  if (session->connected() && !session->model().name().empty())
    Publish(session->model(), session->address());
  int num_ready = 0;
  for (const auto& other : sessions_) num_ready += other->ready() ? 1 : 0;
  metrics_->replicas_ready.Set(num_ready);
  commands_.OnReplicaChanged();
  on_change_();
}

void ReplicaPool::Publish(const v1::WorkerModel& model, const std::string& address) {
  const std::shared_ptr<const ServedModels> known = models();
  const auto same = known->find(model.name());
  if (same != known->end() && same->second->fingerprint == model.fingerprint()) return;
  if (same != known->end() && model.vocabulary_size() == 0) return;  // it was loaded elsewhere
  if (same != known->end() && same->second->vocabulary_size > 0) {
    LogWarning("replicas of one model differ: the last one's limits hold",
               {{"model", model.name()}, {"replica", address}});
  }
  auto served = std::make_shared<ServedModel>();
  served->name = model.name();
  served->architecture = model.architecture();
  served->dtype = model.dtype();
  served->fingerprint = model.fingerprint();
  served->vocabulary_size = static_cast<int32_t>(model.vocabulary_size());
  served->max_context_tokens = static_cast<int32_t>(model.max_context_tokens());
  served->max_prompt_tokens = static_cast<int32_t>(
      model.max_prompt_tokens() == 0 ? model.max_context_tokens() : model.max_prompt_tokens());
  constexpr int kDefaultBlockTokens = 16;
  served->block_tokens =
      model.block_tokens() == 0 ? kDefaultBlockTokens : static_cast<int32_t>(model.block_tokens());
  served->eos_token_ids.assign(model.eos_token_ids().begin(), model.eos_token_ids().end());
  auto models = std::make_shared<ServedModels>(*known);
  (*models)[model.name()] = std::move(served);
  const std::lock_guard<std::mutex> lock(models_mutex_);
  models_ = std::move(models);
}

void ReplicaPool::FetchStatus(std::function<void(std::vector<ReplicaStatus>)> done) {
  auto calls = std::make_shared<StatusCalls>(loop_);
  calls->done = std::move(done);
  for (const auto& session : sessions_) {
    calls->statuses.push_back({session->address(),
                               session->ready(),
                               session->instance(),
                               session->epoch(),
                               session->generated_tokens_per_second(),
                               session->model(),
                               session->load(),
                               {}});
    calls->calls.push_back(session->connected() ? std::make_unique<StatusCalls::Call>() : nullptr);
    if (session->connected()) ++calls->num_unanswered;
  }
  if (calls->num_unanswered == 0) return calls->done(std::move(calls->statuses));
  for (size_t i = 0; i < sessions_.size(); ++i) {
    StatusCalls::Call* call = calls->calls[i].get();
    if (call == nullptr) continue;
    call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
    sessions_[i]->stub()->async()->GetStatus(
        &call->context, &call->request, &call->response,
        [loop = loop_, calls, i](const grpc::Status& status) {
          loop->Post([calls, i, ok = status.ok()] {
            const auto& ranks = calls->calls[i]->response.ranks();
            if (ok) calls->statuses[i].ranks.assign(ranks.begin(), ranks.end());
            if (--calls->num_unanswered == 0) calls->done(std::move(calls->statuses));
          });
        });
  }
}

}  // namespace caravan
