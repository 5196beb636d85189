// What the collectives of ranks on GPUs share: naming ranks in errors, and the first calls of a
// group under a time limit.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/model/collectives.h"

namespace caravan {

// "(host a, address 10.0.0.1, GPU 0000:1b:00.0)": a rank for a person; the GPU must exist.
std::string DescribePlace(const std::string& address, int gpu);

// "rank 1 (…), rank 2 (…)": all of `places`, in rank order, but `rank`.
std::string DescribeOthers(std::span<const std::string> places, int rank);

absl::Status GroupGivenUp(const std::string& why);

// Runs each collective of `group` once on a stream of its own on `gpu`, since a first call may
// allocate, connect or load code, which a stream under capture can't. UNAVAILABLE after `timeout`,
// or soon after group.status() is not OK; then the group has been aborted.
absl::Status RunFirstCalls(Collectives& group, int gpu, absl::Duration timeout);

}  // namespace caravan
