#include "gateway/generation/dispatcher.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/status.h"

namespace caravan {
namespace {

// Models are loaded from the start, but where Triton's clients control the one behind their door.
bool LoadsAtStart(const TritonConfig& triton, const std::string& model) {
  if (!triton.enabled || !triton.explicit_model_control) return true;
  if (!triton.model.empty() && triton.model != model) return true;
  return std::any_of(triton.load_models.begin(), triton.load_models.end(),
                     [](const std::string& name) {
                       return name == "*" || name == "fastertransformer" || name == "ensemble";
                     });
}

}  // namespace

Dispatcher::Dispatcher(EventLoop* loop, const GatewayConfig& config, GatewayMetrics* metrics)
    : loop_(loop),
      limits_(config.admission),
      metrics_(metrics),
      replicas_(loop, config.replicas, metrics,
                {[triton = config.triton](const std::string& model) {
                   return LoadsAtStart(triton, model);
                 },
                 [this](const std::string& model) { return IsBusy(model); }},
                [this] { OnChange(); }),
      tokenizer_(loop, {config.tokenizers, std::chrono::milliseconds(config.tokenizer_timeout_ms)},
                 metrics, [this] { OnChange(); }),
      context_{loop,
               &replicas_,
               &tokenizer_,
               metrics,
               std::chrono::milliseconds(config.admission.queue_timeout_ms),
               [this] {
                 CountLoad();
                 TellIfIdle();
               }} {}

Dispatcher::~Dispatcher() { EndAll(absl::UnavailableError("the gateway is shutting down")); }

void Dispatcher::Start(std::function<void()> on_reached) {
  on_reached_ = std::move(on_reached);
  replicas_.Start();
  tokenizer_.Start();
}

void Dispatcher::OnChange() {
  for (const auto& [model, served] : *models()) {
    AdmissionOf(model).SetOpen(replicas_.HasReady(model), EventLoop::Clock::now());
    if (replicas_.commands().StateOf(model).phase == ModelState::Phase::kUnloaded) {
      EndQueued(model, replicas_.commands().CheckLoaded(model));
    }
  }
  if (on_reached_ != nullptr && !models()->empty() && tokenizer_.vocabulary() != nullptr) {
    std::exchange(on_reached_, nullptr)();
  }
  CountLoad();
}

Admission& Dispatcher::AdmissionOf(const std::string& model) {
  std::shared_ptr<Admission>& admission = admissions_[model];
  if (admission == nullptr) {
    admission = std::make_shared<Admission>(limits_, [this](uint64_t id) {
      if (const auto found = generations_.find(id); found != generations_.end()) {
        const std::shared_ptr<Generation> generation = found->second;
        generation->Promote();
      }
    });
  }
  return *admission;
}

std::shared_ptr<Generation> Dispatcher::Begin(ValidatedRequest request, OutputSink* sink) {
  const uint64_t id = next_id_++;
  const std::string& model = request.model().name;
  const absl::Status loaded = replicas_.commands().CheckLoaded(model);
  ++num_of_model_[model];
  Admission* admission = &AdmissionOf(request.model().name);
  auto generation = std::make_shared<Generation>(id, std::move(request), sink, admission, context_,
                                                 [this, id] { OnEnded(id); });
  generations_.emplace(id, generation);
  if (draining_) {
    generation->Cancel(
        absl::UnavailableError("the gateway is draining; send the request to another one"));
  } else if (!loaded.ok()) {
    generation->Cancel(loaded);
  } else {
    generation->Admit();
  }
  CountLoad();
  return generation;
}

void Dispatcher::OnEnded(uint64_t id) {
  const auto found = generations_.find(id);
  CARAVAN_CHECK(found != generations_.end());
  // It is still on the stack: let go of it in a task of its own.
  const std::string model = found->second->model();
  loop_->Post([ended = std::move(found->second)] {});
  generations_.erase(found);
  if (--num_of_model_[model] == 0) replicas_.commands().OnRequestEnded(model);
  CountLoad();
  TellIfIdle();
}

size_t Dispatcher::num_unfinished() const {
  size_t places = 0;
  for (const auto& [model, admission] : admissions_) {
    places += static_cast<size_t>(admission->num_queued() + admission->num_inflight());
  }
  return std::max(places, generations_.size());  // some have no place yet
}

void Dispatcher::TellIfIdle() {
  if (on_idle_ != nullptr && num_unfinished() == 0) std::exchange(on_idle_, nullptr)();
}

bool Dispatcher::IsBusy(const std::string& model) const {
  const auto found = num_of_model_.find(model);
  return found != num_of_model_.end() && found->second > 0;
}

// Requests that wait for a replica of a model which is not loaded any more.
void Dispatcher::EndQueued(const std::string& model, const absl::Status& status) {
  std::vector<std::shared_ptr<Generation>> queued;
  for (const auto& [id, generation] : generations_) {
    if (generation->queued() && generation->model() == model) queued.push_back(generation);
  }
  for (const auto& generation : queued) generation->Cancel(status);
}

void Dispatcher::CountLoad() {
  int queued = 0;
  int inflight = 0;
  for (const auto& [model, admission] : admissions_) {
    queued += admission->num_queued();
    inflight += admission->num_inflight();
  }
  metrics_->queued_requests.Set(queued);
  metrics_->inflight_requests.Set(inflight);
}

void Dispatcher::Drain(std::function<void()> on_idle) {
  draining_ = true;
  on_idle_ = std::move(on_idle);
  TellIfIdle();
}

void Dispatcher::EndAll(const absl::Status& status) {
  std::vector<std::shared_ptr<Generation>> all;
  for (const auto& [id, generation] : generations_) all.push_back(generation);
  for (const auto& generation : all) generation->Cancel(status);
  replicas_.commands().CancelAll(status);
}

}  // namespace caravan
