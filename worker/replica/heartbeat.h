// How ranks tell that they live and get on, and how silence and standstill are judged.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/replica/rank_runner.h"

namespace caravan {

// Between two heartbeats: ten in a `rank_timeout`, and at least ten a second.
inline absl::Duration HeartbeatInterval(absl::Duration rank_timeout) {
  return std::min(rank_timeout / 10, absl::Milliseconds(100));
}

// Tells a thread that turns every `interval` by how much it was late itself (a busy or sleeping
// host, a clock set forward). In that time it heard nobody, which is no one's fault: it is not
// counted as silence.
class TurnClock {
 public:
  explicit TurnClock(absl::Duration interval) : interval_(interval) {}

  // Once a turn. Zero while the turns are less than two intervals apart.
  absl::Duration Late(absl::Time now) {
    const absl::Duration late = now - last_turn_ - 2 * interval_;
    last_turn_ = now;
    return std::max(late, absl::ZeroDuration());
  }

 private:
  const absl::Duration interval_;
  absl::Time last_turn_ = absl::Now();
};

// Tells for how long a busy rank has stood still.
class StandstillClock {
 public:
  // Once a turn: how far the rank is, and by how much the turn was late (TurnClock). Zero where it
  // got on, or has nothing to do.
  absl::Duration Look(const RankProgress& progress, absl::Time now, absl::Duration late) {
    const bool stands = progress.busy && progress.work_done == last_work_;
    since_ = stands ? since_ + late : now;
    last_work_ = progress.work_done;
    return now - since_;
  }
  void Restart(absl::Time now) { since_ = now; }

 private:
  uint64_t last_work_ = 0;
  absl::Time since_ = absl::Now();
};

}  // namespace caravan
