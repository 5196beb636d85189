// A model's statistics as GET /v2/models/stats has them.
#pragma once

#include "gateway/triton/statistics.h"
#include "nlohmann/json.hpp"

namespace caravan {

nlohmann::ordered_json ToJson(const ModelStatistics& model);

}  // namespace caravan
