// Collectives of ranks on the GPUs of one host, over memory that CUDA IPC maps into each process:
// the kernels of kernels/peer_all_reduce.h. Sums are in rank order with the bits of the CPU's.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/replica/collectives_builder.h"

namespace caravan {

// Allocates what the others write to (32 MiB, 112 with more than two ranks) on spec.gpu. Connect
// runs each collective once, so that what can't work fails there.
absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakePeerBuilder(const GroupSpec& spec);

}  // namespace caravan
