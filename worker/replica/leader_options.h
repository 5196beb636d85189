// What a ReplicaLeader is told, and what it tells of an epoch.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "worker/model/collectives.h"

namespace caravan {

struct LeaderOptions {
  uint64_t instance = 0;  // this process life
  int tensor_parallel = 1;
  int gpu = -1;  // CUDA device of this rank; -1: it computes on the CPU
  std::string collectives = "auto";
  double spare_blocks = 0;    // share of the KV blocks left unused: a rank may come back with fewer
  std::string build;          // version; the followers' must be equal
  bool load_at_start = true;  // Load has been called
  absl::Duration rank_timeout = absl::Seconds(1);   // silence after which a rank is lost
  absl::Duration form_timeout = absl::Seconds(20);  // of one attempt to form an epoch
  // A step that makes no progress for so long loses its epoch.
  absl::Duration wedge_timeout = absl::Seconds(120);
  std::function<void()> on_drain;  // a follower was asked to stop
  // An epoch that stood has fallen; called with a lock held: must not block, nor call back.
  std::function<void()> on_loss;
  // Called where this rank stands still for 2 · wedge_timeout, though its epoch has fallen
  // meanwhile: nothing but the end of the process helps. With a lock held: must not block, nor call
  // back.
  std::function<void(const std::string& why)> on_wedged;
};

// What a replica's followers are to hold.
enum class WantedModel : uint8_t { kAnything, kLoaded, kUnloaded };

// The group of one epoch, from rank 0.
struct Epoch {
  uint64_t number = 0;
  std::shared_ptr<Collectives> ranks;
  int32_t num_blocks = 0;  // KV blocks that every rank has
};

}  // namespace caravan
