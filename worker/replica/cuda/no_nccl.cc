// NCCL's collectives where the build has CUDA and no NCCL.
#include "worker/replica/cuda/nccl_collectives.h"

namespace caravan {

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeNcclBuilder(const GroupSpec&) {
  return absl::FailedPreconditionError(
      "this build has no NCCL, which ranks on several hosts and on GPUs without peer access need: "
      "install libnccl-dev and build again");
}

}  // namespace caravan
