// Collectives over TCP with Gloo, for ranks on different hosts.
//
// Gloo moves bytes; the sums are ours (every rank gathers all addends and adds them in rank order),
// because Gloo's own all-reduce adds in an order that depends on rank and size. Its exceptions end
// here as UNAVAILABLE.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/replica/collectives_builder.h"

namespace caravan {

// Listens on spec.host, one port a peer. The addresses of these ports are what travels through the
// Join streams in place of a Gloo store.
absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeGlooBuilder(const GroupSpec& spec);

}  // namespace caravan
