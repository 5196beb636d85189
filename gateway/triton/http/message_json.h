// A protobuf message as Triton's HTTP door writes it: the proto's field names, enums by name,
// 64-bit integers as numbers, every singular and repeated field present, messages only where set.
#pragma once

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace caravan {

nlohmann::ordered_json MessageToJson(const google::protobuf::Message& message);

}  // namespace caravan
