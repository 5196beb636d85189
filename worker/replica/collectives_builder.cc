#include "worker/replica/collectives_builder.h"

#include "absl/strings/str_cat.h"
#include "worker/replica/gloo_collectives.h"
#include "worker/replica/shared_memory_collectives.h"

namespace caravan {

const char* NameOf(CollectivesKind kind) {
  return kind == CollectivesKind::kSharedMemory ? "shared_memory" : "gloo";
}

absl::StatusOr<CollectivesKind> CollectivesKindNamed(const std::string& name) {
  for (const CollectivesKind kind : {CollectivesKind::kSharedMemory, CollectivesKind::kGloo}) {
    if (name == NameOf(kind)) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("collectives '", name, "' are not known; shared_memory and gloo are"));
}

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeCollectivesBuilder(const GroupSpec& spec) {
  return spec.kind == CollectivesKind::kSharedMemory ? MakeSharedMemoryBuilder(spec)
                                                     : MakeGlooBuilder(spec);
}

}  // namespace caravan
