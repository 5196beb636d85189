// Who may be in flight, who waits, who is refused. One object a model. Plain state: no clock, no
// threads (the gateway keeps it on its loop).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "gateway/config.h"

namespace caravan {

class Admission : public std::enable_shared_from_this<Admission> {
 public:
  using Time = std::chrono::steady_clock::time_point;
  enum class Place : uint8_t { kInflight, kQueued };

  struct Candidate {
    uint64_t id = 0;     // unique among those that have not left; ascending in arrival
    std::string client;  // for the limit per client
    int priority = 0;    // smaller leaves the queue sooner
    Time deadline = Time::max();
  };

  // `promote` is called with the id of each request that moves from the queue into flight, inside
  // the call that made the place; it may call back.
  Admission(const AdmissionLimits& limits, std::function<void(uint64_t id)> promote);

  // RESOURCE_EXHAUSTED, with the numbers, where the queue is full, the client has its share, or
  // the queue is expected to take longer than the deadline leaves.
  absl::StatusOr<Place> Admit(const Candidate& candidate, Time now);

  // The request is over, wherever it is, and nothing of it waits for the client.
  void Leave(uint64_t id, Time now);

  // Back into the queue, at the place of its arrival: its replica was lost before it began. Never
  // refused.
  void Requeue(uint64_t id, Time now);

  // Closed while no replica is ready: then everything waits in the queue.
  void SetOpen(bool open, Time now);

  int num_queued() const { return static_cast<int>(queue_.size()); }
  int num_inflight() const { return num_inflight_; }

 private:
  struct Entry {
    Candidate candidate;
    Place place = Place::kQueued;
  };

  std::pair<int, uint64_t> QueueKey(const Candidate& candidate) const {
    return {candidate.priority, candidate.id};
  }
  absl::Status CheckExpectedWait(const Candidate& candidate, Time now) const;
  void PromoteWhilePossible(Time now);

  const AdmissionLimits limits_;
  const std::function<void(uint64_t)> promote_;
  bool open_ = false;
  int num_inflight_ = 0;
  absl::flat_hash_map<uint64_t, Entry> entries_;
  absl::flat_hash_map<std::string, int> per_client_;
  std::set<std::pair<int, uint64_t>> queue_;  // (priority, id)
  // Mean time between promotions while others still wait: what a place in the queue costs.
  double seconds_per_promotion_ = 0;
  Time last_promotion_ = Time::min();
};

}  // namespace caravan
