#include "worker/service.h"

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr absl::Duration kLeastWedgeTime = absl::Seconds(1);
constexpr double kWedgeSteps = 5;  // predicted step times without progress

v1::WorkerTokenEvent::Finish FinishOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return v1::WorkerTokenEvent::NONE;
    case FinishReason::kStopToken:
      return v1::WorkerTokenEvent::STOP_TOKEN;
    case FinishReason::kStopSequence:
      return v1::WorkerTokenEvent::STOP_SEQUENCE;
    case FinishReason::kLength:
      return v1::WorkerTokenEvent::LENGTH;
    case FinishReason::kCancelled:
      return v1::WorkerTokenEvent::CANCELLED;
    case FinishReason::kDeadline:
      return v1::WorkerTokenEvent::DEADLINE;
    case FinishReason::kError:
      return v1::WorkerTokenEvent::ERROR;
  }
  return v1::WorkerTokenEvent::ERROR;
}

void SetStatus(const absl::Status& status, v1::WorkerTokenEvent* out) {
  out->set_code(static_cast<int32_t>(status.code()));
  out->set_message(std::string(status.message()));
}

void EncodeTokens(const TokenEvent& event, int32_t num_logprobs, v1::WorkerTokenEvent* out) {
  for (const EmittedToken& token : event.tokens) {
    out->add_token_ids(token.token_id);
    if (num_logprobs >= 0) out->add_logprobs(token.logprob);
    if (num_logprobs <= 0) continue;
    v1::WorkerTopLogprobs* top = out->add_top_logprobs();
    for (const auto& [id, logprob] : token.top_logprobs) {
      top->add_token_ids(id);
      top->add_logprobs(logprob);
    }
  }
}

}  // namespace

const char* NameOf(WorkerState state) {
  switch (state) {
    case WorkerState::kLoading:
      return "loading";
    case WorkerState::kForming:
      return "forming";
    case WorkerState::kReady:
      return "ready";
    case WorkerState::kUnloading:
      return "unloading";
    case WorkerState::kUnloaded:
      return "unloaded";
    case WorkerState::kDraining:
      return "draining";
  }
  return "unknown";
}

WorkerService::WorkerService(const Options& options, ReplicaView replica, WorkerMetrics* metrics)
    : options_(options), replica_(std::move(replica)), metrics_(metrics) {
  reporter_ = std::thread([this] { Report(); });
}

WorkerService::~WorkerService() { Stop(); }

void WorkerService::BeginLoad() {
  const std::lock_guard lock(mutex_);
  if (state_ != WorkerState::kDraining) state_ = WorkerState::kLoading;
  load_start_ = absl::Now();
  loaded_bytes_ = total_bytes_ = 0;
  load_bytes_per_second_ = 0;
}

void WorkerService::ReportLoad(int64_t done_bytes, int64_t total_bytes) {
  const std::lock_guard lock(mutex_);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - load_start_);
  loaded_bytes_ = done_bytes;
  total_bytes_ = total_bytes;
  load_bytes_per_second_ = seconds > 0 ? static_cast<double>(done_bytes) / seconds : 0;
  metrics_->load_seconds.Set(seconds);
}

void WorkerService::SetState(WorkerState state) {
  const std::lock_guard lock(mutex_);
  if (state_ != WorkerState::kDraining) state_ = state;
}

void WorkerService::Serve(const ServedModel& served) {
  const std::lock_guard lock(mutex_);
  served_ = served;
  if (state_ != WorkerState::kDraining) state_ = WorkerState::kReady;
  limits_.model = served.model.name();
  limits_.fingerprint = served.model.fingerprint();
  limits_.vocab_size = static_cast<int32_t>(served.model.vocabulary_size());
  limits_.max_context_tokens = static_cast<int32_t>(served.model.max_context_tokens());
  limits_.max_prompt_tokens = static_cast<int32_t>(served.model.max_prompt_tokens());
  last_progress_ = absl::Now();
  for (const auto& session : sessions_) session->Send(WelcomeMessage());
}

void WorkerService::Withdraw(const v1::WorkerModel& model) {
  const std::lock_guard lock(mutex_);
  if (served_.engine != nullptr) past_ = StatsLocked();
  past_.waiting_requests = past_.running_sequences = 0;
  past_.free_blocks = past_.cached_blocks = past_.used_blocks = past_.total_blocks = 0;
  past_.recovering = past_.draining = false;
  served_.engine = nullptr;
  if (!IsWelcoming()) served_.model = model;
  if (state_ != WorkerState::kDraining) state_ = WorkerState::kUnloaded;
  for (const auto& session : sessions_) session->Send(WelcomeMessage());
}

void WorkerService::OnEpoch() {
  const std::lock_guard lock(mutex_);
  if (served_.engine == nullptr) return;
  last_progress_ = absl::Now();
  for (const auto& session : sessions_) session->Send(WelcomeMessage());
}

void WorkerService::Deliver(const std::vector<TokenEvent>& events) {
  const std::lock_guard lock(mutex_);
  absl::flat_hash_map<std::shared_ptr<WorkerSession>, v1::WorkerSessionResponse> messages;
  for (const TokenEvent& event : events) {
    const auto found = active_.find(event.key);
    CARAVAN_CHECK(found != active_.end(), "event of unknown request ", event.key);
    Active& active = found->second;
    if (active.session != nullptr) {
      v1::WorkerSessionResponse& message = messages[active.session];
      v1::WorkerTokenEvent* out = message.mutable_events()->add_events();
      out->set_key(active.client_key);
      out->set_attempt(active.attempt);
      out->set_sample_index(static_cast<uint32_t>(event.sample_index));
      out->set_first_position(static_cast<uint32_t>(event.first_position));
      EncodeTokens(event, active.num_logprobs, out);
      out->set_finish(FinishOf(event.finish));
      if (!event.status.ok()) SetStatus(event.status, out);
      out->set_cached_prompt_tokens(static_cast<uint32_t>(event.cached_prompt_tokens));
      out->set_cumulative_logprob(event.cumulative_logprob);
      out->set_snapshot(event.snapshot);
    }
    if (event.snapshot) continue;
    active.num_tokens += event.tokens.size();
    if (event.finish == FinishReason::kNone || --active.unfinished > 0) continue;
    LogInfo("finished", {{"request", active.request_id},
                         {"traceparent", active.traceparent},
                         {"attempt", active.attempt},
                         {"tokens", active.num_tokens},
                         {"reason", NameOf(event.finish)}});
    if (active.session != nullptr) active.session->keys.erase(active.client_key);
    active_.erase(found);
  }
  for (auto& [session, message] : messages) {
    const v1::WorkerSessionResponse head = NewMessage();
    message.set_instance(head.instance());
    message.set_epoch(head.epoch());
    session->Send(std::move(message));
  }
}

void WorkerService::GoAway(const std::string& reason, absl::Duration drain_timeout) {
  const std::lock_guard lock(mutex_);
  state_ = WorkerState::kDraining;
  drain_reason_ = reason;
  drain_timeout_ = drain_timeout;
  for (const auto& session : sessions_) session->Send(GoAwayMessage());
}

void WorkerService::Stop() {
  std::set<std::shared_ptr<WorkerSession>> sessions;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    sessions = sessions_;
  }
  stop_.notify_all();
  // OK, since gRPC's clients drop messages that they have not read when a stream ends with an
  // error: the last tokens would be lost. What is said of the end was said by the GoAway and by the
  // events of requests that were cut off.
  for (const auto& session : sessions) session->Close(grpc::Status::OK);
  if (reporter_.joinable()) reporter_.join();
}

size_t WorkerService::num_sessions() {
  const std::lock_guard lock(mutex_);
  return sessions_.size();
}

bool WorkerService::AwaitGateways(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return gateway_done_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [this] {
    return std::all_of(sessions_.begin(), sessions_.end(),
                       [](const auto& session) { return session->done; });
  });
}

grpc::ServerBidiReactor<v1::WorkerSessionRequest, v1::WorkerSessionResponse>*
WorkerService::Session(grpc::CallbackServerContext* context) {
  const auto session = WorkerSession::Open(context, this, options_.max_session_tokens);
  if (!options_.refusal.empty()) {
    session->Close({grpc::StatusCode::FAILED_PRECONDITION, options_.refusal});
    return session.get();
  }
  {
    const std::lock_guard lock(mutex_);
    sessions_.insert(session);
    if (IsWelcoming()) session->Send(WelcomeMessage());
    if (state_ == WorkerState::kDraining) session->Send(GoAwayMessage());
  }
  session->Start();
  return session.get();
}

void WorkerService::OnSessionMessage(const std::shared_ptr<WorkerSession>& session,
                                     const v1::WorkerSessionRequest& message) {
  switch (message.message_case()) {
    case v1::WorkerSessionRequest::kHello:
      session->set_gateway(message.hello().gateway());
      LogInfo("opened session", {{"gateway", session->gateway()}});
      break;
    case v1::WorkerSessionRequest::kSubmit:
      OnSubmit(session, message.submit());
      break;
    case v1::WorkerSessionRequest::kCancel:
      OnCancelRequest(session, message.cancel().key());
      break;
    case v1::WorkerSessionRequest::kDone:
      OnDone(session);
      break;
    case v1::WorkerSessionRequest::MESSAGE_NOT_SET:
      session->Close({grpc::StatusCode::INVALID_ARGUMENT, "a message without content"});
      break;
  }
}

void WorkerService::OnSessionClosed(const std::shared_ptr<WorkerSession>& session) {
  std::vector<RequestKey> keys;
  {
    const std::lock_guard lock(mutex_);
    sessions_.erase(session);
    gateway_done_.notify_all();
    for (const auto& [client_key, key] : session->keys) {
      active_[key].session = nullptr;
      keys.push_back(key);
    }
    session->keys.clear();
  }
  if (const auto engine = this->engine()) {
    for (const RequestKey key : keys) engine->Cancel(key);
  }
  metrics_->closed_sessions.Increment();
  LogInfo("closed session", {{"gateway", session->gateway()}, {"cancelled", keys.size()}});
}

void WorkerService::OnSubmit(const std::shared_ptr<WorkerSession>& session,
                             const v1::WorkerSubmit& submit) {
  const absl::Status status = Submit(session, submit);
  LogDebug("submitted", {{"request", submit.request_id()},
                         {"traceparent", submit.traceparent()},
                         {"attempt", submit.attempt()},
                         {"prompt_tokens", submit.prompt_token_ids_size()},
                         {"status", ToString(status)}});
  if (status.ok()) return;
  metrics_->refused_requests.Increment();
  v1::WorkerSessionResponse message = NewMessage();
  v1::WorkerTokenEvent* event = message.mutable_events()->add_events();
  event->set_key(submit.key());
  event->set_attempt(submit.attempt());
  event->set_first_position(submit.num_resumed());
  event->set_finish(v1::WorkerTokenEvent::ERROR);
  SetStatus(status, event);
  session->Send(std::move(message));
}

absl::Status WorkerService::Submit(const std::shared_ptr<WorkerSession>& session,
                                   const v1::WorkerSubmit& submit) {
  SubmitLimits limits;
  std::shared_ptr<Engine> engine;
  {
    const std::lock_guard lock(mutex_);
    if (served_.engine == nullptr) {
      const v1::WorkerModelStatus status = ModelStatusLocked();
      if (status.state() != v1::WorkerModelStatus::UNLOADED) {
        return absl::UnavailableError("the worker does not serve yet; retry");
      }
      return absl::UnavailableError(absl::StrCat("the model is not loaded: ", status.reason()));
    }
    engine = served_.engine;
    limits = limits_;
  }
  ASSIGN_OR_RETURN(Request request, ValidateSubmit(submit, limits, absl::Now()));
  {
    const std::lock_guard lock(mutex_);
    request.key = next_key_++;
    if (!session->keys.emplace(submit.key(), request.key).second) {
      return absl::AlreadyExistsError(absl::StrCat(
          "key ", submit.key(), " is in use on this session by a request that has not finished"));
    }
    active_[request.key] = {session,
                            submit.key(),
                            submit.attempt(),
                            request.num_sequences(),
                            request.sampling.num_logprobs,
                            submit.request_id(),
                            submit.traceparent()};
  }
  const RequestKey key = request.key;
  absl::Status status = engine->Submit(std::move(request));
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    session->keys.erase(submit.key());
    active_.erase(key);
  }
  return status;
}

void WorkerService::OnCancelRequest(const std::shared_ptr<WorkerSession>& session,
                                    uint64_t client_key) {
  RequestKey key = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = session->keys.find(client_key);
    if (found == session->keys.end()) return;  // finished meanwhile, or never known
    key = found->second;
  }
  if (const auto engine = this->engine()) engine->Cancel(key);
}

void WorkerService::OnDone(const std::shared_ptr<WorkerSession>& session) {
  const std::lock_guard lock(mutex_);
  session->done = true;
  gateway_done_.notify_all();
}

std::shared_ptr<Engine> WorkerService::engine() {
  const std::lock_guard lock(mutex_);
  return served_.engine;
}

v1::WorkerSessionResponse WorkerService::NewMessage() const {
  v1::WorkerSessionResponse message;
  message.set_instance(options_.instance);
  message.set_epoch(replica_.epoch());
  return message;
}

v1::WorkerSessionResponse WorkerService::WelcomeMessage() {
  v1::WorkerSessionResponse message = NewMessage();
  *message.mutable_welcome()->mutable_model() = served_.model;
  *message.mutable_welcome()->mutable_load() = LoadLocked();
  message.mutable_welcome()->set_heartbeat_ms(
      static_cast<uint32_t>(absl::ToInt64Milliseconds(kHeartbeat)));
  load_is_due_ = true;
  return message;
}

v1::WorkerSessionResponse WorkerService::GoAwayMessage() {
  v1::WorkerSessionResponse message = NewMessage();
  message.mutable_go_away()->set_reason(drain_reason_);
  message.mutable_go_away()->set_awaits_done(true);
  message.mutable_go_away()->set_drain_timeout_ms(
      static_cast<uint32_t>(absl::ToInt64Milliseconds(drain_timeout_)));
  return message;
}

v1::WorkerLoad WorkerService::LoadLocked() {
  v1::WorkerLoad load;
  *load.mutable_model_status() = ModelStatusLocked();
  const EngineStats stats = StatsLocked();
  load.set_waiting_requests(static_cast<uint32_t>(stats.waiting_requests));
  load.set_running_sequences(static_cast<uint32_t>(stats.running_sequences));
  load.set_used_blocks(static_cast<uint32_t>(stats.used_blocks));
  load.set_cached_blocks(static_cast<uint32_t>(stats.cached_blocks));
  load.set_generated_tokens(stats.generated_tokens);
  load.set_ready(served_.engine != nullptr && state_ == WorkerState::kReady && !stats.recovering &&
                 !stats.draining && MakesProgressLocked(stats));
  return load;
}

v1::WorkerModelStatus WorkerService::ModelStatusLocked() const {
  v1::WorkerModelStatus status;
  if (options_.model_status) status = options_.model_status();
  const bool is_loading = status.state() == v1::WorkerModelStatus::LOADING;
  if (is_loading && served_.engine != nullptr) status.set_state(v1::WorkerModelStatus::LOADED);
  return status;
}

// Counters go on over the engines' lives.
EngineStats WorkerService::StatsLocked() const {
  if (served_.engine == nullptr) return past_;
  EngineStats stats = served_.engine->Stats();
  stats.steps += past_.steps;
  stats.prompt_tokens += past_.prompt_tokens;
  stats.cached_tokens += past_.cached_tokens;
  stats.generated_tokens += past_.generated_tokens;
  stats.preemptions += past_.preemptions;
  stats.cancelled += past_.cancelled;
  stats.finished += past_.finished;
  stats.nonfinite_logits += past_.nonfinite_logits;
  return stats;
}

// With work queued, rank 0 must get on within a second or a few predicted step times.
bool WorkerService::MakesProgressLocked(const EngineStats& stats) {
  const bool idle = stats.running_sequences == 0 && stats.waiting_requests == 0;
  const uint64_t progress = replica_.progress();
  if (std::exchange(last_step_progress_, progress) != progress || idle || stats.recovering) {
    last_progress_ = absl::Now();
  }
  const absl::Duration allowed =
      std::max(kLeastWedgeTime, absl::Seconds(kWedgeSteps * stats.predicted_step_seconds));
  return absl::Now() - last_progress_ <= allowed;
}

}  // namespace caravan
