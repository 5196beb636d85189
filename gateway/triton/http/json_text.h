// JSON from and to clients: read within bounds, written whatever the bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace caravan {

inline constexpr int kMaxJsonDepth = 64;
inline constexpr int64_t kMaxJsonMemoryBytes = 128 << 20;  // of the parsed form, about

// One JSON object. INVALID_ARGUMENT says where `text` is not JSON, nests deeper than kMaxJsonDepth,
// takes more than kMaxJsonMemoryBytes, or has an object with one name twice.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text);

// Bytes that are not UTF-8 become U+FFFD.
std::string ToText(const nlohmann::ordered_json& json);

// A value for an error message: short.
std::string Brief(const nlohmann::json& value);

// The member of an object; nullptr where it is absent or null.
const nlohmann::json* FindMember(const nlohmann::json& object, const char* name);

}  // namespace caravan
