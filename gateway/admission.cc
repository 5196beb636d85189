#include "gateway/admission.h"

#include <utility>

#include "common/status.h"

namespace caravan {

Admission::Admission(const AdmissionLimits& limits, std::function<void(uint64_t id)> promote)
    : limits_(limits), promote_(std::move(promote)) {}

absl::StatusOr<Admission::Place> Admission::Admit(const Candidate& candidate, Time now) {
  if (limits_.max_requests_per_client > 0) {
    const auto found = per_client_.find(candidate.client);
    const int count = found == per_client_.end() ? 0 : found->second;
    if (count >= limits_.max_requests_per_client) {
      return absl::ResourceExhaustedError(
          absl::StrCat("client ", candidate.client, " has ", count,
                       " unfinished requests, as many as one client may have; let one finish"));
    }
  }
  const bool immediate = open_ && queue_.empty() && num_inflight_ < limits_.max_inflight_requests;
  if (!immediate) {
    if (num_queued() >= limits_.max_queued_requests) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the queue is full: ", num_queued(), " requests wait (limit ",
          limits_.max_queued_requests, ") and ", num_inflight_, " are in flight; retry later"));
    }
    RETURN_IF_ERROR(CheckExpectedWait(candidate, now));
  }
  const Place place = immediate ? Place::kInflight : Place::kQueued;
  const bool inserted = entries_.try_emplace(candidate.id, Entry{candidate, place}).second;
  CARAVAN_CHECK(inserted, "request ", candidate.id, " was admitted twice");
  ++per_client_[candidate.client];
  if (immediate) {
    ++num_inflight_;
  } else {
    queue_.insert(QueueKey(candidate));
  }
  return place;
}

absl::Status Admission::CheckExpectedWait(const Candidate& candidate, Time now) const {
  if (candidate.deadline == Time::max() || !open_) return absl::OkStatus();
  const double expected = seconds_per_promotion_ * (num_queued() + 1);
  const double left = std::chrono::duration<double>(candidate.deadline - now).count();
  if (expected <= left) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the queue (", num_queued(), " requests) takes about ", static_cast<int64_t>(expected * 1000),
      " ms, the request's deadline is in ", static_cast<int64_t>(left * 1000), " ms; retry later"));
}

void Admission::Leave(uint64_t id, Time now) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  const Entry entry = std::move(found->second);
  entries_.erase(found);
  const auto client = per_client_.find(entry.candidate.client);
  if (--client->second == 0) per_client_.erase(client);
  if (entry.place == Place::kQueued) {
    queue_.erase(QueueKey(entry.candidate));
  } else {
    --num_inflight_;
  }
  PromoteWhilePossible(now);
}

void Admission::Requeue(uint64_t id, Time now) {
  const auto found = entries_.find(id);
  CARAVAN_CHECK(found != entries_.end() && found->second.place == Place::kInflight);
  found->second.place = Place::kQueued;
  --num_inflight_;
  queue_.insert(QueueKey(found->second.candidate));
  PromoteWhilePossible(now);
}

void Admission::SetOpen(bool open, Time now) {
  open_ = open;
  PromoteWhilePossible(now);
}

void Admission::PromoteWhilePossible(Time now) {
  while (open_ && !queue_.empty() && num_inflight_ < limits_.max_inflight_requests) {
    const uint64_t id = queue_.begin()->second;
    queue_.erase(queue_.begin());
    entries_.at(id).place = Place::kInflight;
    ++num_inflight_;
    if (last_promotion_ != Time::min() && !queue_.empty()) {
      constexpr double kWeight = 0.1;
      const double seconds = std::chrono::duration<double>(now - last_promotion_).count();
      seconds_per_promotion_ += kWeight * (seconds - seconds_per_promotion_);
    }
    last_promotion_ = queue_.empty() ? Time::min() : now;
    promote_(id);
  }
}

}  // namespace caravan
