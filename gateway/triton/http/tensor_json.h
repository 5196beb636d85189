// Tensor data as JSON: arrays, nested or flat, in row-major order.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "gateway/triton/protocol/tensor.h"
#include "nlohmann/json.hpp"

namespace caravan {

// Packs `data`, an array or a single value, and counts its elements. INVALID_ARGUMENT names
// `tensor` and the element that is not of the type, or out of its range.
struct PackedJson {
  std::string data;
  int64_t count = 0;
};
absl::StatusOr<PackedJson> PackJson(const std::string& tensor, DataType type,
                                    const nlohmann::json& data);

// The flat array of packed data. INVALID_ARGUMENT for the types that JSON has no form of.
absl::StatusOr<nlohmann::ordered_json> UnpackJson(const std::string& tensor, DataType type,
                                                  std::string_view data);

}  // namespace caravan
