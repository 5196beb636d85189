// Everything under /v2 but inference: metadata, readiness, statistics, repository, shared memory,
// settings.
#pragma once

#include "gateway/http/http_message.h"
#include "gateway/triton/http/routes.h"
#include "gateway/triton/inference_server.h"
#include "nlohmann/json.hpp"

namespace caravan {

struct ManagementRequest {
  Route route;
  bool is_post = false;
  nlohmann::json body = nlohmann::json::object();
};

// REQUIRES: called on the loop; the route is none of inference.
HttpResponse Manage(const ManagementRequest& request, InferenceServer* server);

}  // namespace caravan
