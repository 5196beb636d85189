// Collectives of ranks on one host, over a segment of POSIX shared memory.
//
// Work goes in rounds: each rank writes its slot, all meet at a barrier, each reads the others'
// slots. Slots are double: who writes round k + 2 has passed the barrier of round k + 1, which
// every rank reaches after its reads of round k. Waiting spins for moments, then sleeps on a futex,
// so ranks may outnumber cores.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/replica/collectives_builder.h"

namespace caravan {

// Rank 0 creates the segment named spec.shared_memory_name (its memory reserved, so that a full
// /dev/shm is an error here and no fault later), the others map it; Connect on rank 0 unlinks it,
// since every rank has mapped it by then. A builder of rank 0 that dies before unlinks it too.
absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeSharedMemoryBuilder(const GroupSpec& spec);

}  // namespace caravan
