// POST …/generate and …/generate_stream: one flat JSON object, whose names are tensors where the
// model has such an input, and parameters where not.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "gateway/triton/protocol/infer_message.h"
#include "gateway/triton/protocol/model_catalog.h"
#include "nlohmann/json.hpp"

namespace caravan {

// INVALID_ARGUMENT names the tensor or parameter. Shapes follow the model's: fixed dimensions as
// they are, the innermost open one takes what remains, other open ones are 1.
absl::StatusOr<InferRequest> ParseGenerate(const TritonModel& model, std::string_view body);

// Outputs by name; an output of one element is that element alone.
absl::StatusOr<nlohmann::ordered_json> WriteGenerate(const InferResponse& response);

}  // namespace caravan
