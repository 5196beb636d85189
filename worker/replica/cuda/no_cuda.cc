// The collectives of ranks on GPUs where the build has no CUDA: there are none.
#include "worker/replica/cuda/nccl_collectives.h"
#include "worker/replica/cuda/peer_collectives.h"

namespace caravan {

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakePeerBuilder(const GroupSpec&) {
  return absl::FailedPreconditionError("this build has the CPU backend alone");
}

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeNcclBuilder(const GroupSpec&) {
  return absl::FailedPreconditionError("this build has the CPU backend alone");
}

}  // namespace caravan
