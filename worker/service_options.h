// What a WorkerService is told, and what it serves.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "caravan/v1/worker.pb.h"
#include "worker/engine/engine.h"

namespace caravan {

enum class WorkerState : uint8_t { kLoading, kForming, kReady, kUnloading, kUnloaded, kDraining };
// Sessions hear at least so often from a worker that lives.
inline constexpr absl::Duration kHeartbeat = absl::Milliseconds(200);
const char* NameOf(WorkerState state);  // "loading", "forming", "ready", "unloading", …

// What the service asks of the replica; called often, from any thread.
struct ReplicaView {
  std::function<uint64_t()> epoch;  // the one that stands, or stood last; 0 before the first
  std::function<std::vector<v1::WorkerRank>()> ranks;
  std::function<uint64_t()> progress;  // differs whenever rank 0 has finished another layer
};

// What is served, once it is.
struct ServedModel {
  std::shared_ptr<Engine> engine;  // null: none
  v1::WorkerModel model;
};

struct WorkerServiceOptions {
  uint64_t instance = 0;
  int64_t max_session_tokens = 1 << 18;
  std::string refusal;  // not empty: a follower; sessions are refused with this sentence
  // Called by the reporting thread: when readiness changes, and once the engine is beyond help.
  std::function<void(bool ready)> on_ready;
  std::function<void(const absl::Status& why)> on_fatal;
  // LoadModel and UnloadModel; ModelControl::Submit.
  std::function<void(bool load, uint64_t number, std::function<void(const absl::Status&)> done)>
      control;
  std::function<v1::WorkerModelStatus()> model_status;  // empty: as the engine is there or not
};

}  // namespace caravan
