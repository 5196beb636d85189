#include "worker/engine/mailbox.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace caravan {

absl::Status Mailbox::Submit(Request request) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status_.ok()) {
      return absl::UnavailableError(absl::StrCat("the engine has failed: ", status_.message()));
    }
    if (closed_ || stopping_) return absl::UnavailableError("the engine has stopped");
    if (draining_) return absl::UnavailableError("the engine drains and takes no new requests");
    if (keys_.contains(request.key)) {
      return absl::AlreadyExistsError(
          absl::StrCat("a request with the key ", request.key, " is in flight"));
    }
    const int32_t waiting = stats_.waiting_requests + submissions_;
    // A resumed request was admitted once: its client is reading.
    if (waiting >= max_waiting_requests_ && request.num_resumed == 0) {
      return absl::ResourceExhaustedError(absl::StrCat(waiting, " requests wait, the queue takes ",
                                                       max_waiting_requests_, "; retry later"));
    }
    keys_.insert(request.key);
    commands_.emplace_back(std::make_shared<const Request>(std::move(request)));
    ++submissions_;
  }
  news_.notify_one();
  return absl::OkStatus();
}

void Mailbox::Cancel(RequestKey key) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!keys_.contains(key)) return;
    commands_.emplace_back(key);
  }
  news_.notify_one();
}

void Mailbox::Wake() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    woken_ = true;
  }
  news_.notify_one();
}

EngineStats Mailbox::Stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting_requests += submissions_;
  stats.draining = draining_;
  return stats;
}

absl::Status Mailbox::status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

void Mailbox::BeginDrain() {
  const std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
}

bool Mailbox::WaitUntilEmpty(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto is_empty = [this] { return keys_.empty() && !delivering_; };
  if (timeout == absl::InfiniteDuration()) {
    empty_.wait(lock, is_empty);
    return true;
  }
  return empty_.wait_for(lock, absl::ToChronoNanoseconds(timeout), is_empty);
}

void Mailbox::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  news_.notify_all();
}

bool Mailbox::stopping() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stopping_;
}

std::vector<Mailbox::Command> Mailbox::Take() {
  const std::lock_guard<std::mutex> lock(mutex_);
  // The requests taken stay counted as waiting until the turn's statistics are there.
  stats_.waiting_requests += std::exchange(submissions_, 0);
  woken_ = false;
  return std::exchange(commands_, {});
}

void Mailbox::WaitForNews() {
  std::unique_lock<std::mutex> lock(mutex_);
  news_.wait(lock, [this] { return stopping_ || woken_ || !commands_.empty(); });
}

void Mailbox::BeginDelivery(const EngineStats& stats, const std::vector<RequestKey>& released) {
  const std::lock_guard<std::mutex> lock(mutex_);
  stats_ = stats;
  for (RequestKey key : released) keys_.erase(key);
  delivering_ = true;
}

void Mailbox::EndDelivery() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    delivering_ = false;
    if (!keys_.empty()) return;
  }
  empty_.notify_all();
}

std::vector<Mailbox::Command> Mailbox::Close(const absl::Status& fatal) {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  submissions_ = 0;
  if (!fatal.ok()) status_ = fatal;
  return std::exchange(commands_, {});
}

}  // namespace caravan
