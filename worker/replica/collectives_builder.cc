#include "worker/replica/collectives_builder.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "worker/replica/cuda/nccl_collectives.h"
#include "worker/replica/cuda/peer_collectives.h"
#include "worker/replica/gloo_collectives.h"
#include "worker/replica/shared_memory_collectives.h"

namespace caravan {

const char* NameOf(CollectivesKind kind) {
  switch (kind) {
    case CollectivesKind::kSharedMemory:
      return "shared_memory";
    case CollectivesKind::kGloo:
      return "gloo";
    case CollectivesKind::kPeer:
      return "peer";
    case CollectivesKind::kNccl:
      return "nccl";
  }
  return "unknown";
}

absl::StatusOr<CollectivesKind> CollectivesKindNamed(const std::string& name) {
  for (const CollectivesKind kind : {CollectivesKind::kSharedMemory, CollectivesKind::kGloo,
                                     CollectivesKind::kPeer, CollectivesKind::kNccl}) {
    if (name == NameOf(kind)) return kind;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "collectives '", name, "' are not known; shared_memory, gloo, peer and nccl are"));
}

void PrepareEnvironmentForCollectives() {
  // NVLink multicast is not worth what it costs at start, and fails where fabrics are partitioned.
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  // Connections are made when the group forms, not inside the first calls of a step.
  setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
}

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeCollectivesBuilder(const GroupSpec& spec) {
  const bool for_gpus = spec.kind == CollectivesKind::kPeer || spec.kind == CollectivesKind::kNccl;
  if (for_gpus != (spec.gpu >= 0)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--collectives=", NameOf(spec.kind), " is for ranks on ", for_gpus ? "GPUs" : "CPUs",
        ", and rank ", spec.rank, " computes on a ", for_gpus ? "CPU" : "GPU", ": choose ",
        for_gpus ? "auto, shared_memory or gloo" : "auto, peer or nccl"));
  }
  switch (spec.kind) {
    case CollectivesKind::kSharedMemory:
      return MakeSharedMemoryBuilder(spec);
    case CollectivesKind::kGloo:
      return MakeGlooBuilder(spec);
    case CollectivesKind::kPeer:
      return MakePeerBuilder(spec);
    case CollectivesKind::kNccl:
      return MakeNcclBuilder(spec);
  }
  return absl::InternalError("unknown kind of collectives");
}

}  // namespace caravan
