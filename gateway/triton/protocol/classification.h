// Triton's classification extension: what is greatest in an output, in place of the output.
#pragma once

#include <cstdint>

#include "gateway/triton/protocol/infer_message.h"

namespace caravan {

inline constexpr char kClassification[] = "classification";
inline constexpr int64_t kMaxClasses = 1024;  // of one row

// Numbers can be compared; texts and booleans can't.
bool CanClassify(DataType datatype);

// BYTES [rows, min(count, elements of a row)]: of each row the greatest elements as "value:index",
// greatest first, equal ones by index. REQUIRES: CanClassify, and at least one dimension.
InferOutput Classify(const InferOutput& output, int64_t count);

}  // namespace caravan
