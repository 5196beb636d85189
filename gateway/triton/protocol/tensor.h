// Tensors as Triton's protocol writes them: little endian, row major, packed; an element of BYTES
// is a 32-bit length and that many bytes. Every front door turns its own form into this one.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"

namespace caravan {

// The numbers are those of inference.DataType.
enum class DataType : uint8_t {
  kInvalid = 0,
  kBool = 1,
  kUint8 = 2,
  kUint16 = 3,
  kUint32 = 4,
  kUint64 = 5,
  kInt8 = 6,
  kInt16 = 7,
  kInt32 = 8,
  kInt64 = 9,
  kFp16 = 10,
  kFp32 = 11,
  kFp64 = 12,
  kBytes = 13,
  kBf16 = 14,
};

// "UINT32", "BYTES", …; "<invalid>" for kInvalid.
const char* NameOf(DataType type);
// kInvalid for any other name.
DataType ParseDataType(std::string_view name);
// Bytes of one element; 0 for kBytes and kInvalid.
size_t SizeOf(DataType type);

// A response a token makes several: short ones take no memory of their own.
using Shape = absl::InlinedVector<int64_t, 4>;

// "[-1,1]".
std::string ToString(const Shape& shape);

// The number of elements; INVALID_ARGUMENT, naming `tensor`, where a dimension is negative or the
// product is above kMaxElements.
constexpr int64_t kMaxElements = int64_t{1} << 31;
absl::StatusOr<int64_t> NumElements(const std::string& tensor, const Shape& shape);

// Checks that `data` is exactly `count` elements of `type`; INVALID_ARGUMENT names `tensor`.
absl::Status CheckData(const std::string& tensor, DataType type, int64_t count,
                       std::string_view data);

// The elements of BYTES data that CheckData accepted; the views are into `data`.
std::vector<std::string_view> UnpackBytes(std::string_view data);
void AppendBytes(std::string_view element, std::string* data);

// Element i of packed data of fixed size. The data need not be aligned.
template <typename Value>
Value ElementAt(std::string_view data, size_t i) {
  Value value;
  std::memcpy(&value, data.data() + i * sizeof(Value), sizeof(Value));
  return value;
}
template <typename Value>
void AppendElement(Value value, std::string* data) {
  data->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <typename Value>
void AppendElements(const Value* values, size_t count, std::string* data) {
  data->append(reinterpret_cast<const char*>(values), count * sizeof(Value));
}
template <typename Value>
std::string Pack(const std::vector<Value>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value)};
}

}  // namespace caravan
