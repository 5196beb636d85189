// How the group of an epoch comes to be.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/model/collectives.h"

namespace caravan {

enum class CollectivesKind : uint8_t {
  kSharedMemory,  // ranks on CPUs of one host
  kGloo,          // ranks on CPUs, over TCP
  kPeer,          // ranks on GPUs of one host that reach each other's memory
  kNccl,          // ranks on GPUs
};
const char* NameOf(CollectivesKind kind);  // "shared_memory", "gloo", "peer", "nccl"
absl::StatusOr<CollectivesKind> CollectivesKindNamed(const std::string& name);

// Sets what libraries read from the environment. For main(), before there are threads.
void PrepareEnvironmentForCollectives();

struct GroupSpec {
  CollectivesKind kind = CollectivesKind::kSharedMemory;
  int rank = 0;
  int world_size = 1;
  int gpu = -1;                    // CUDA device of this rank; -1: it is on the CPU
  std::string shared_memory_name;  // "/caravan-…", new with each epoch
  std::string host;                // this rank's address, as the others reach it
  absl::Duration connect_timeout = absl::Seconds(10);
  // A call that a peer does not join for so long fails; far above any step's time.
  absl::Duration operation_timeout = absl::Seconds(120);
};

// One rank's half of a group: made first on every rank, then connected once all addresses are
// known.
class CollectivesBuilder {
 public:
  virtual ~CollectivesBuilder() = default;

  // What the other ranks need of this one; opaque bytes.
  virtual const std::string& address() const = 0;

  // Once. `addresses` of all ranks in rank order. Blocks until the group stands, for at most
  // spec.connect_timeout: UNAVAILABLE where it does not. FAILED_PRECONDITION where this kind can't
  // stand between these ranks, however often it is tried.
  virtual absl::StatusOr<std::unique_ptr<Collectives>> Connect(
      std::span<const std::string> addresses) = 0;

  // Any thread: Connect, running or later, and the group that it gave return UNAVAILABLE soon.
  virtual void Abort() = 0;
};

// Rank 0's of shared memory creates the segment: make it before those of the other ranks.
// FAILED_PRECONDITION where this build or the rank's device does not have this kind.
absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeCollectivesBuilder(const GroupSpec& spec);

}  // namespace caravan
