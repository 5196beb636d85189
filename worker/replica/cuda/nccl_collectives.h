// Collectives of ranks on GPUs over NCCL: any host, any link.
//
// The communicator is non-blocking, so that a peer that is lost leaves no thread inside a call.
// Abort ends its kernels, each within some 5 ms; its memory goes once all CUDA graphs that hold its
// calls are destroyed.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/replica/collectives_builder.h"

namespace caravan {

// Rank 0's address holds the id by which the others find it.
absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeNcclBuilder(const GroupSpec& spec);

}  // namespace caravan
