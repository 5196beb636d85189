#include "worker/model_control.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status.h"

namespace caravan {
namespace {

using Status = v1::WorkerModelStatus;

absl::Status Stopping() { return absl::UnavailableError("the worker stops"); }

}  // namespace

ModelControl::~ModelControl() {
  Close();
  Join();
}

void ModelControl::Start(bool load, Done done) {
  const std::lock_guard lock(mutex_);
  status_.set_unload_wanted(!load);
  status_.set_state(load ? Status::LOADING : Status::UNLOADED);
  if (!load) status_.set_reason("unloaded");
  if (load) commands_.push_back({true, {std::move(done)}});
  thread_ = std::thread([this] { Run(); });
}

void ModelControl::Submit(bool load, uint64_t number, Done done) {
  absl::Status answer;
  {
    const std::lock_guard lock(mutex_);
    answer = closed_ ? Stopping() : Accept(load, number, &done);
  }
  changed_.notify_all();
  if (done != nullptr) done(answer);  // it was not queued
}

// Where the command is queued, `done` is empty afterwards.
absl::Status ModelControl::Accept(bool load, uint64_t number, Done* done) {
  const uint64_t last = status_.command();
  if (number == 0) {
    number = std::max<uint64_t>(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())), last + 1);
  }
  const bool last_load = !status_.unload_wanted();
  if (number > last) {
    status_.set_command(number);
    status_.set_unload_wanted(!load);
    LogInfo(load ? "load wanted" : "unload wanted", {{"command", number}});
    commands_.push_back({load, {std::exchange(*done, nullptr)}});
    // Unloaded though a load is wanted is what a load that failed looks like.
    if (load && status_.state() == Status::UNLOADED) SetStateLocked(Status::LOADING, "");
    return absl::OkStatus();
  }
  if (load != last_load) {
    return absl::AbortedError(absl::StrCat("a later command ", last_load ? "loaded" : "unloaded",
                                           " the model (", last, ", this one is ", number, ")"));
  }
  if (!commands_.empty()) {  // the last one of them wants the same
    commands_.back().done.push_back(std::exchange(*done, nullptr));
    return absl::OkStatus();
  }
  const bool is_loaded = status_.state() == Status::LOADED;
  return is_loaded == load ? absl::OkStatus() : absl::InternalError(status_.reason());
}

v1::WorkerModelStatus ModelControl::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

bool ModelControl::superseded() const {
  const std::lock_guard lock(mutex_);
  return closed_ || std::any_of(commands_.begin(), commands_.end(),
                                [](const Command& command) { return !command.load; });
}

void ModelControl::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closed_ || !commands_.empty(); });
    if (closed_) break;
    running_ = true;
    const bool load = commands_.front().load;
    lock.unlock();
    const absl::Status status = Execute(load);
    lock.lock();
    running_ = false;
    const Command ended = std::move(commands_.front());
    commands_.pop_front();
    lock.unlock();
    for (const Done& done : ended.done) done(status);
    lock.lock();
  }
  const std::deque<Command> left = std::exchange(commands_, {});
  lock.unlock();
  for (const Command& command : left) {
    for (const Done& done : command.done) done(Stopping());
  }
}

absl::Status ModelControl::Execute(bool load) {
  const Status::State now = status().state();
  if (load) {
    if (now == Status::LOADED) return absl::OkStatus();
    SetState(Status::LOADING, "");
    absl::Status loaded = actions_.load();
    if (loaded.ok()) {
      SetState(Status::LOADED, "");
    } else {
      LogError("can't load", {{"status", loaded.ToString()}});
      const std::lock_guard lock(mutex_);
      const bool again = commands_.size() > 1 && !status_.unload_wanted();
      SetStateLocked(again ? Status::LOADING : Status::UNLOADED, std::string(loaded.message()));
    }
    return loaded;
  }
  absl::Status unloaded;
  if (now == Status::LOADED) {
    SetState(Status::UNLOADING, "");
    unloaded = actions_.unload();
  }
  const std::lock_guard lock(mutex_);
  if (status_.unload_wanted()) {
    SetStateLocked(Status::UNLOADED, "unloaded");
  } else {
    SetStateLocked(Status::LOADING, "");  // a load waits
  }
  return unloaded;
}

void ModelControl::SetState(Status::State state, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  SetStateLocked(state, reason);
}

void ModelControl::SetStateLocked(Status::State state, const std::string& reason) {
  status_.set_state(state);
  status_.set_reason(reason);
}

bool ModelControl::Close() {
  bool loading = false;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    loading = running_ && commands_.front().load;
  }
  changed_.notify_all();
  return loading;
}

void ModelControl::Join() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace caravan
