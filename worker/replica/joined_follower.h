// What the leader knows of a rank above 0.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "caravan/v1/replica.grpc.pb.h"
#include "worker/replica/heartbeat.h"
#include "worker/replica/join_stream.h"

namespace caravan {

// A rank above 0. Without a stream it has not joined, or was lost.
struct JoinedFollower {
  std::shared_ptr<JoinStream> stream;
  uint64_t instance = 0;
  v1::FollowerHello hello;
  v1::FollowerProgress progress;
  absl::Time last_heard;
  StandstillClock standstill;  // in this epoch
  bool joined_before = false;
  std::string address;  // of its collectives in the epoch that forms
  bool has_address = false;
  bool ready = false;  // for the epoch that forms
  bool loaded = false;
};

}  // namespace caravan
