// Where the running cluster is: a file that `caravan up` writes and the other commands read, so
// that nobody has to type addresses on the host that serves.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace caravan {

struct ClusterState {
  int pid = 0;  // of `caravan up`
  std::string gateway_address;
  std::string gateway_http_address;
  std::string gateway_metrics_address;
  std::string tokenizer_address;
  std::string model;
};

// Of this user on this host; CARAVAN_STATE_FILE overrides it.
std::string ClusterStatePath();

// ALREADY_EXISTS, and nothing is written, while another cluster that wrote it runs.
absl::Status WriteClusterState(const ClusterState& state);
// Absent where no cluster runs: no file, or its process is gone.
std::optional<ClusterState> ReadClusterState();
// Removes the file if it is this process's.
void RemoveClusterState();

// `flag` if given, else the running cluster's gateway, else localhost:8001.
std::string ResolveGatewayAddress(const std::string& flag);

}  // namespace caravan
