// WorkerService: what it reports of itself, unasked and asked.
#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"
#include "worker/service.h"

namespace caravan {
namespace {

constexpr absl::Duration kReportInterval = absl::Milliseconds(100);

}  // namespace

void WorkerService::Report() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    ReportOnce(lock);
    stop_.wait_for(lock, absl::ToChronoNanoseconds(kReportInterval), [this] { return stopping_; });
  }
  AnswerDrains(/*stopping=*/true);
}

void WorkerService::ReportOnce(std::unique_lock<std::mutex>& lock) {
  metrics_->UpdateRanks(replica_.ranks());
  if (!IsWelcoming()) return;
  const EngineStats stats = StatsLocked();
  const v1::WorkerLoad load = LoadLocked();
  metrics_->Update(stats, load.ready(), replica_.epoch());
  metrics_->model_loaded.Set(served_.engine != nullptr ? 1 : 0);
  const absl::Time now = absl::Now();
  if (std::exchange(load_is_due_, false) || now - last_load_time_ >= kHeartbeat ||
      load.SerializeAsString() != last_load_.SerializeAsString()) {
    last_load_ = load;
    last_load_time_ = now;
    for (const auto& session : sessions_) {
      v1::WorkerSessionResponse message = NewMessage();
      *message.mutable_load() = load;
      session->Send(std::move(message));
    }
  }
  AnswerDrains(/*stopping=*/false);
  const absl::Status fatal =
      served_.engine != nullptr ? served_.engine->status() : absl::OkStatus();
  const bool failed = !fatal.ok() && !std::exchange(failed_, true);
  const bool changed = std::exchange(last_ready_, load.ready()) != load.ready();
  if (changed) {
    LogInfo(load.ready() ? "ready" : "not ready",
            {{"epoch", replica_.epoch()}, {"state", NameOf(StateLocked())}});
  }
  lock.unlock();
  if (changed && options_.on_ready) options_.on_ready(load.ready());
  if (failed && options_.on_fatal) options_.on_fatal(fatal);
  lock.lock();
}

WorkerState WorkerService::StateLocked() {
  if (state_ != WorkerState::kReady || served_.engine == nullptr) return state_;
  const EngineStats stats = StatsLocked();
  if (stats.draining) return WorkerState::kDraining;
  return stats.recovering ? WorkerState::kForming : WorkerState::kReady;
}

grpc::ServerUnaryReactor* WorkerService::GetStatus(grpc::CallbackServerContext* context,
                                                   const v1::GetWorkerStatusRequest* request,
                                                   v1::GetWorkerStatusResponse* response) {
  const std::lock_guard lock(mutex_);
  response->set_instance(options_.instance);
  response->set_epoch(replica_.epoch());
  response->set_state(NameOf(StateLocked()));
  for (v1::WorkerRank& rank : replica_.ranks()) *response->add_ranks() = std::move(rank);
  response->set_loaded_fraction(total_bytes_ > 0 ? static_cast<double>(loaded_bytes_) /
                                                       static_cast<double>(total_bytes_)
                                                 : 0);
  response->set_load_bytes_per_second(load_bytes_per_second_);
  if (IsWelcoming()) {
    const EngineStats stats = StatsLocked();
    *response->mutable_model() = served_.model;
    *response->mutable_load() = LoadLocked();
    response->set_steps(stats.steps);
    response->set_preemptions(stats.preemptions);
    response->set_cached_tokens(stats.cached_tokens);
    response->set_prompt_tokens(stats.prompt_tokens);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::Drain(grpc::CallbackServerContext* context,
                                               const v1::DrainRequest* request,
                                               v1::DrainResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Duration timeout = absl::Milliseconds(request->timeout_ms());
  GoAway("drained by request", timeout);
  const std::lock_guard lock(mutex_);
  if (served_.engine == nullptr || stopping_) {
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  served_.engine->Drain(absl::ZeroDuration());
  drains_.push_back({reactor, absl::Now() + timeout});
  return reactor;
}

void WorkerService::Control(bool load, uint64_t number,
                            std::function<void(const grpc::Status&)> done) {
  if (!options_.control) {
    return done({grpc::StatusCode::FAILED_PRECONDITION, options_.refusal});
  }
  options_.control(load, number, [done = std::move(done)](const absl::Status& status) {
    done(ToGrpcStatus(status));
  });
}

grpc::ServerUnaryReactor* WorkerService::LoadModel(grpc::CallbackServerContext* context,
                                                   const v1::LoadModelRequest* request,
                                                   v1::LoadModelResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Control(/*load=*/true, request->command(), [this, reactor, response](const grpc::Status& status) {
    if (options_.model_status) *response->mutable_status() = options_.model_status();
    reactor->Finish(status);
  });
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::UnloadModel(grpc::CallbackServerContext* context,
                                                     const v1::UnloadModelRequest* request,
                                                     v1::UnloadModelResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Control(/*load=*/false, request->command(),
          [this, reactor, response](const grpc::Status& status) {
            if (options_.model_status) *response->mutable_status() = options_.model_status();
            reactor->Finish(status);
          });
  return reactor;
}

void WorkerService::AnswerDrains(bool stopping) {
  if (drains_.empty()) return;
  const size_t left = active_.size();
  std::erase_if(drains_, [&](const DrainCall& call) {
    if (left == 0) {
      call.reactor->Finish(grpc::Status::OK);
    } else if (stopping || absl::Now() >= call.deadline) {
      call.reactor->Finish(
          {grpc::StatusCode::DEADLINE_EXCEEDED,
           absl::StrCat(left, " requests have not finished within the drain's timeout_ms")});
    } else {
      return false;
    }
    return true;
  });
}

}  // namespace caravan
