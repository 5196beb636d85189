#include "gateway/triton/http/routes.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/status.h"
#include "gateway/http/http_message.h"

namespace caravan {
namespace {

struct Entry {
  const char* pattern;  // segments; {m} model, {v} version, {r} region, {o} repository
  Action action;
  const char* methods;  // of GET and POST: "G", "P" or "GP"
};

// The first that fits counts. "/versions/{v}" may follow any {m} of /v2/models.
constexpr Entry kEntries[] = {
    {"v2", Action::kServerMetadata, "G"},
    {"v2/health/live", Action::kServerLive, "G"},
    {"v2/health/ready", Action::kServerReady, "G"},
    {"v2/models/stats", Action::kStatistics, "G"},
    {"v2/models/{m}", Action::kModelMetadata, "G"},
    {"v2/models/{m}/ready", Action::kModelReady, "G"},
    {"v2/models/{m}/config", Action::kModelConfig, "G"},
    {"v2/models/{m}/stats", Action::kStatistics, "G"},
    {"v2/models/{m}/infer", Action::kInfer, "P"},
    {"v2/models/{m}/generate", Action::kGenerate, "P"},
    {"v2/models/{m}/generate_stream", Action::kGenerateStream, "P"},
    {"v2/models/{m}/trace/setting", Action::kTraceSetting, "GP"},
    {"v2/repository/index", Action::kRepositoryIndex, "P"},
    {"v2/repository/models/{m}/load", Action::kModelLoad, "P"},
    {"v2/repository/models/{m}/unload", Action::kModelUnload, "P"},
    {"v2/repository/{o}/index", Action::kRepositoryIndex, "P"},
    {"v2/repository/{o}/models/{m}/load", Action::kModelLoad, "P"},
    {"v2/repository/{o}/models/{m}/unload", Action::kModelUnload, "P"},
    {"v2/systemsharedmemory/status", Action::kSystemMemoryStatus, "G"},
    {"v2/systemsharedmemory/unregister", Action::kSystemMemoryUnregister, "P"},
    {"v2/systemsharedmemory/region/{r}/status", Action::kSystemMemoryStatus, "G"},
    {"v2/systemsharedmemory/region/{r}/register", Action::kSystemMemoryRegister, "P"},
    {"v2/systemsharedmemory/region/{r}/unregister", Action::kSystemMemoryUnregister, "P"},
    {"v2/cudasharedmemory/status", Action::kCudaMemoryStatus, "G"},
    {"v2/cudasharedmemory/unregister", Action::kCudaMemoryUnregister, "P"},
    {"v2/cudasharedmemory/region/{r}/status", Action::kCudaMemoryStatus, "G"},
    {"v2/cudasharedmemory/region/{r}/register", Action::kCudaMemoryRegister, "P"},
    {"v2/cudasharedmemory/region/{r}/unregister", Action::kCudaMemoryUnregister, "P"},
    {"v2/trace/setting", Action::kTraceSetting, "GP"},
    {"v2/logging", Action::kLogging, "GP"},
};

// The variable of the route that a pattern's segment stands for; nullptr: a fixed word.
std::string* VariableOf(std::string_view segment, Route* route) {
  if (segment == "{m}") return &route->model;
  if (segment == "{r}") return &route->region;
  if (segment == "{o}") return &route->repository;
  return nullptr;
}

bool Match(std::string_view pattern, const std::vector<std::string>& segments, Route* route) {
  for (const std::string& segment : segments) {
    if (pattern.empty()) return false;
    const size_t end = std::min(pattern.find('/'), pattern.size());
    std::string* variable = VariableOf(pattern.substr(0, end), route);
    if (variable == nullptr && segment != pattern.substr(0, end)) return false;
    if (variable != nullptr && segment.empty()) return false;
    if (variable != nullptr) *variable = segment;
    pattern.remove_prefix(std::min(end + 1, pattern.size()));
  }
  return pattern.empty();
}

}  // namespace

absl::StatusOr<std::optional<Route>> FindRoute(std::string_view path) {
  ASSIGN_OR_RETURN(std::vector<std::string> segments, SplitPath(path));
  std::string version;
  if (segments.size() >= 5 && segments[1] == "models" && segments[3] == "versions") {
    version = segments[4];
    segments.erase(segments.begin() + 3, segments.begin() + 5);
  }
  for (const Entry& entry : kEntries) {
    Route route;
    if (!Match(entry.pattern, segments, &route)) continue;
    if (!version.empty() && entry.action == Action::kTraceSetting) continue;
    route.action = entry.action;
    route.version = std::move(version);
    const std::string_view methods = entry.methods;
    route.takes_get = methods.find('G') != std::string_view::npos;
    route.takes_post = methods.find('P') != std::string_view::npos;
    return route;
  }
  return std::nullopt;
}

}  // namespace caravan
