#include "gateway/triton/http/routes.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

Route Find(const std::string& path) {
  const auto route = FindRoute(path);
  EXPECT_TRUE(route.ok() && route->has_value()) << path;
  return route.ok() && route->has_value() ? **route : Route();
}

TEST(Routes, FindsEveryEndpoint) {
  const struct {
    const char* path;
    Action action;
    bool get;
    bool post;
  } endpoints[] = {
      {"/v2", Action::kServerMetadata, true, false},
      {"/v2/", Action::kServerMetadata, true, false},
      {"/v2/health/live", Action::kServerLive, true, false},
      {"/v2/health/ready", Action::kServerReady, true, false},
      {"/v2/models/m", Action::kModelMetadata, true, false},
      {"/v2/models/m/versions/1", Action::kModelMetadata, true, false},
      {"/v2/models/m/ready", Action::kModelReady, true, false},
      {"/v2/models/m/versions/1/ready", Action::kModelReady, true, false},
      {"/v2/models/m/config", Action::kModelConfig, true, false},
      {"/v2/models/stats", Action::kStatistics, true, false},
      {"/v2/models/m/stats", Action::kStatistics, true, false},
      {"/v2/models/m/versions/1/stats", Action::kStatistics, true, false},
      {"/v2/models/m/infer", Action::kInfer, false, true},
      {"/v2/models/m/versions/1/infer", Action::kInfer, false, true},
      {"/v2/models/m/generate", Action::kGenerate, false, true},
      {"/v2/models/m/versions/1/generate_stream", Action::kGenerateStream, false, true},
      {"/v2/repository/index", Action::kRepositoryIndex, false, true},
      {"/v2/repository/r/index", Action::kRepositoryIndex, false, true},
      {"/v2/repository/models/m/load", Action::kModelLoad, false, true},
      {"/v2/repository/r/models/m/unload", Action::kModelUnload, false, true},
      {"/v2/systemsharedmemory/status", Action::kSystemMemoryStatus, true, false},
      {"/v2/systemsharedmemory/region/x/status", Action::kSystemMemoryStatus, true, false},
      {"/v2/systemsharedmemory/region/x/register", Action::kSystemMemoryRegister, false, true},
      {"/v2/systemsharedmemory/unregister", Action::kSystemMemoryUnregister, false, true},
      {"/v2/cudasharedmemory/status", Action::kCudaMemoryStatus, true, false},
      {"/v2/cudasharedmemory/region/x/register", Action::kCudaMemoryRegister, false, true},
      {"/v2/cudasharedmemory/region/x/unregister", Action::kCudaMemoryUnregister, false, true},
      {"/v2/trace/setting", Action::kTraceSetting, true, true},
      {"/v2/models/m/trace/setting", Action::kTraceSetting, true, true},
      {"/v2/logging", Action::kLogging, true, true},
  };
  for (const auto& endpoint : endpoints) {
    const Route route = Find(endpoint.path);
    EXPECT_EQ(route.action, endpoint.action) << endpoint.path;
    EXPECT_EQ(route.takes_get, endpoint.get) << endpoint.path;
    EXPECT_EQ(route.takes_post, endpoint.post) << endpoint.path;
  }
}

TEST(Routes, TakesNamesFromThePath) {
  Route route = Find("/v2/models/my%20model/versions/3/infer");
  EXPECT_EQ(route.model, "my model");
  EXPECT_EQ(route.version, "3");
  route = Find("/v2/repository/r/models/m/load");
  EXPECT_EQ(route.repository, "r");
  EXPECT_EQ(route.model, "m");
  EXPECT_EQ(Find("/v2/systemsharedmemory/region/a%2Fb/status").region, "a/b");
  EXPECT_EQ(Find("/v2/models/stats").model, "");
}

TEST(Routes, KnowsNoOthers) {
  for (const char* path :
       {"/", "", "/v1", "/v2/models", "/v2/models//infer", "/v2/models/m/infer/x", "/v2/health",
        "/v2/models/m/versions", "/v2/models/m/versions/1/trace/setting", "/v2x", "//v2",
        "/v2/repository", "/v2/systemsharedmemory/region/x", "/metrics"}) {
    const auto route = FindRoute(path);
    EXPECT_TRUE(route.ok() && !route->has_value()) << path;
  }
  EXPECT_FALSE(FindRoute("/v2/models/%zz").ok());
}

}  // namespace
}  // namespace caravan
