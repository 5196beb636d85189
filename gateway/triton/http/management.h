// Everything under /v2 but inference: metadata, readiness, statistics, repository, shared memory,
// settings.
#pragma once

#include <functional>

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

// REQUIRES: called on the loop; the route is none of inference. `respond` is called once, there
// too, and maybe later: loading a model takes its time.
void Manage(const ManagementRequest& request, InferenceServer* server,
            const std::function<void(HttpResponse)>& respond);

}  // namespace caravan
