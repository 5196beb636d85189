#include "cli/cluster_state.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace caravan {
namespace {

using Json = nlohmann::json;

// A folder in /tmp that somebody else made must not name our gateway.
bool IsOurs(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0 && info.st_uid == geteuid();
}

// A process of this program: the id of one that is gone may have been given to another since.
bool IsAlive(int pid) {
  std::ifstream own_file("/proc/self/comm");
  std::ifstream file(absl::StrCat("/proc/", pid, "/comm"));
  std::string own;
  std::string name;
  return pid > 0 && std::getline(own_file, own) && std::getline(file, name) && name == own;
}

}  // namespace

std::string ClusterStatePath() {
  if (const char* path = std::getenv("CARAVAN_STATE_FILE"); path != nullptr && *path != '\0') {
    return path;
  }
  return absl::StrCat("/tmp/caravan-", geteuid(), "/cluster.json");
}

absl::Status WriteClusterState(const ClusterState& state) {
  const std::string path = ClusterStatePath();
  const std::optional<ClusterState> other = ReadClusterState();
  if (other.has_value() && other->pid != state.pid) {
    return absl::AlreadyExistsError(absl::StrCat("another cluster of yours runs (process ",
                                                 other->pid, ", gateway ", other->gateway_address,
                                                 "): commands without --address talk to that one"));
  }
  if (const size_t slash = path.rfind('/'); slash != std::string::npos) {
    mkdir(path.substr(0, slash).c_str(), 0700);
  }
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::ofstream file(temporary, std::ios::trunc);
  file << Json{{"pid", state.pid},
               {"gateway", state.gateway_address},
               {"gateway_http", state.gateway_http_address},
               {"gateway_metrics", state.gateway_metrics_address},
               {"tokenizer", state.tokenizer_address},
               {"model", state.model}}
              .dump(2)
       << '\n';
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        "can't write ", path, ": ", std::strerror(errno),
        "; the other commands will need --address (CARAVAN_STATE_FILE names another place)"));
  }
  return absl::OkStatus();
}

std::optional<ClusterState> ReadClusterState() {
  const std::string path = ClusterStatePath();
  if (!IsOurs(path)) return std::nullopt;
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  const auto text_of = [&json](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : "";
  };
  ClusterState state;
  if (json.contains("pid") && json["pid"].is_number_integer()) state.pid = json["pid"].get<int>();
  state.gateway_address = text_of("gateway");
  state.gateway_http_address = text_of("gateway_http");
  state.gateway_metrics_address = text_of("gateway_metrics");
  state.tokenizer_address = text_of("tokenizer");
  state.model = text_of("model");
  if (!IsAlive(state.pid)) return std::nullopt;
  return state;
}

void RemoveClusterState() {
  const std::optional<ClusterState> state = ReadClusterState();
  if (state.has_value() && state->pid == getpid()) unlink(ClusterStatePath().c_str());
}

std::string ResolveGatewayAddress(const std::string& flag) {
  if (!flag.empty()) return flag;
  const std::optional<ClusterState> state = ReadClusterState();
  return state.has_value() ? state->gateway_address : "localhost:8001";
}

}  // namespace caravan
