#include "gateway/worker_session.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr std::chrono::milliseconds kFirstPause{50};
constexpr std::chrono::milliseconds kLongestPause{1000};
constexpr std::chrono::seconds kRateWindow{5};
// A replica is silent after so many turns of the heartbeat timer without a word: a second at the
// workers' 200 ms. Turns are counted, not time, so that a gateway which itself got no processor
// blames nobody.
constexpr int kSilentTurns = 5;

}  // namespace

WorkerSession::WorkerSession(EventLoop* loop, int id, const std::string& address,
                             Listener* listener, GatewayMetrics* metrics)
    : loop_(loop),
      id_(id),
      address_(address),
      listener_(listener),
      metrics_(metrics),
      stub_(v1::Worker::NewStub(MakeChannel(address))),
      reconnect_pause_(kFirstPause) {}

WorkerSession::~WorkerSession() {
  loop_->CancelTimer(&reconnect_timer_);
  loop_->CancelTimer(&heartbeat_timer_);
  if (stream_ != nullptr) stream_->Close();
}

void WorkerSession::Start() { Connect(); }

void WorkerSession::Connect() {
  stream_ =
      Stream::Open(loop_, this, [this](grpc::ClientContext* context, Stream::Reactor* reactor) {
        stub_->async()->Session(context, reactor);
      });
  v1::WorkerSessionRequest hello;
  hello.mutable_hello()->set_gateway("gateway");
  stream_->Write(std::move(hello));
}

void WorkerSession::Submit(v1::WorkerSubmit submit, WorkerEventHandler* handler) {
  CARAVAN_CHECK(connected_ && !draining_);
  const bool inserted = handlers_.try_emplace(submit.key(), handler).second;
  CARAVAN_CHECK(inserted, "key ", submit.key(), " is in use");
  v1::WorkerSessionRequest request;
  *request.mutable_submit() = std::move(submit);
  stream_->Write(std::move(request));
}

void WorkerSession::Cancel(uint64_t key) {
  if (handlers_.erase(key) == 0) return;
  v1::WorkerSessionRequest request;
  request.mutable_cancel()->set_key(key);
  stream_->Write(std::move(request));
  SayIfDone();
}

// A worker that stops waits for its gateways, so that they lose no token.
void WorkerSession::SayIfDone() {
  if (!awaits_done_ || !handlers_.empty() || stream_ == nullptr) return;
  awaits_done_ = false;
  v1::WorkerSessionRequest request;
  request.mutable_done();
  stream_->Write(std::move(request));
}

int WorkerSession::num_requests() const {
  return std::max(static_cast<int>(load_.waiting_requests() + load_.running_sequences()),
                  static_cast<int>(handlers_.size()));
}

void WorkerSession::OnMessage(v1::WorkerSessionResponse response) {
  heard_ = true;
  SetSilent(false);
  if (response.has_welcome()) return OnWelcome(response);
  if (!connected_ || response.instance() != instance_ || response.epoch() < epoch_) {
    metrics_->stale_events.Increment(std::max(1, response.events().events_size()));
    return;
  }
  if (response.has_events()) OnEvents(response.events());
  if (response.has_load()) SetLoad(response.load());
  if (response.has_go_away() && !draining_) {
    draining_ = true;
    awaits_done_ = response.go_away().awaits_done();
    LogInfo("replica leaves", {{"replica", address_}, {"reason", response.go_away().reason()}});
    listener_->OnReplicaChanged(this, /*cache_lost=*/false);
    SayIfDone();
  }
}

void WorkerSession::OnWelcome(const v1::WorkerSessionResponse& response) {
  const bool cache_lost = response.instance() != instance_ || response.epoch() != epoch_;
  connected_ = true;
  loss_logged_ = false;
  reconnect_pause_ = kFirstPause;
  instance_ = response.instance();
  epoch_ = response.epoch();
  model_ = response.welcome().model();
  load_ = response.welcome().load();
  LogInfo("welcomed by replica", {{"replica", address_},
                                  {"model", model_.name()},
                                  {"instance", instance_},
                                  {"epoch", epoch_},
                                  {"tensor_parallel", model_.tensor_parallel()},
                                  {"ready", load_.ready()}});
  listener_->OnReplicaChanged(this, cache_lost);
  loop_->CancelTimer(&heartbeat_timer_);
  const std::chrono::milliseconds interval(response.welcome().heartbeat_ms());
  if (interval.count() > 0) ExpectHeartbeats(interval);
}

void WorkerSession::ExpectHeartbeats(std::chrono::milliseconds interval) {
  heartbeat_timer_ = loop_->RunAfter(interval, [this, interval] {
    silent_turns_ = std::exchange(heard_, false) ? 0 : silent_turns_ + 1;
    if (silent_turns_ >= kSilentTurns) SetSilent(true);
    ExpectHeartbeats(interval);
  });
}

void WorkerSession::SetSilent(bool silent) {
  if (silent == silent_) return;
  silent_ = silent;
  if (silent)
    LogWarning("replica is silent", {{"replica", address_}, {"requests", handlers_.size()}});
  if (!silent) LogInfo("replica is heard again", {{"replica", address_}});
  listener_->OnReplicaChanged(this, /*cache_lost=*/false);
}

void WorkerSession::OnEvents(const v1::WorkerEvents& events) {
  for (const v1::WorkerTokenEvent& event : events.events()) {
    // Looked up each time: a handler may end other requests.
    const auto handler = handlers_.find(event.key());
    if (handler == handlers_.end()) {
      metrics_->stale_events.Increment();
      continue;
    }
    handler->second->OnWorkerEvent(event);
  }
}

void WorkerSession::SetLoad(const v1::WorkerLoad& load) {
  const bool was_ready = ready();
  const std::string model_status = load_.model_status().SerializeAsString();
  load_ = load;
  const auto now = EventLoop::Clock::now();
  generated_.emplace_back(now, load.generated_tokens());
  while (generated_.front().first < now - kRateWindow) generated_.pop_front();
  if (ready() == was_ready && load.model_status().SerializeAsString() == model_status) return;
  listener_->OnReplicaChanged(this, /*cache_lost=*/false);
}

double WorkerSession::generated_tokens_per_second() const {
  const auto now = EventLoop::Clock::now();
  const auto first = std::find_if(generated_.begin(), generated_.end(), [&](const auto& sample) {
    return sample.first >= now - kRateWindow;
  });
  if (first == generated_.end()) return 0;
  const double seconds = std::chrono::duration<double>(now - first->first).count();
  return seconds <= 0 ? 0 : static_cast<double>(generated_.back().second - first->second) / seconds;
}

void WorkerSession::OnClosed(const grpc::Status& status) {
  stream_ = nullptr;
  const bool was_connected = std::exchange(connected_, false);
  draining_ = false;
  awaits_done_ = false;
  silent_ = false;
  loop_->CancelTimer(&heartbeat_timer_);
  generated_.clear();
  load_.set_ready(false);
  load_.set_waiting_requests(0);
  load_.set_running_sequences(0);
  if (!std::exchange(loss_logged_, true)) {
    LogWarning(was_connected ? "lost replica" : "can't reach replica",
               {{"replica", address_},
                {"requests", handlers_.size()},
                {"error", ToString(FromGrpcStatus(status))}});
  }
  reconnect_timer_ = loop_->RunAfter(reconnect_pause_, [this] { Connect(); });
  reconnect_pause_ = std::min(reconnect_pause_ * 2, kLongestPause);
  if (!was_connected) return;
  listener_->OnReplicaChanged(this, /*cache_lost=*/false);
  const absl::Status why = absl::UnavailableError(absl::StrCat("replica ", address_, " was lost"));
  while (!handlers_.empty()) {  // a handler may end other requests
    WorkerEventHandler* handler = handlers_.begin()->second;
    handlers_.erase(handlers_.begin());
    handler->OnWorkerLost(why);
  }
}

}  // namespace caravan
