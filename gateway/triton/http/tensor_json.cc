#include "gateway/triton/http/tensor_json.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/http/json_text.h"

namespace caravan {
namespace {

using Json = nlohmann::json;

class Packer {
 public:
  Packer(const std::string& tensor, DataType type) : tensor_(tensor), type_(type) {}

  // REQUIRES: nests at most kMaxJsonDepth deep, as ParseJsonObject promises.
  absl::Status Add(const Json& value) {
    if (value.is_array()) {
      for (const Json& element : value) RETURN_IF_ERROR(Add(element));
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(AddElement(value));
    ++packed_.count;
    return absl::OkStatus();
  }

  PackedJson Take() { return std::move(packed_); }

 private:
  absl::Status Wrong(const Json& value) const {
    return absl::InvalidArgumentError(absl::StrCat("input '", tensor_, "' is ", NameOf(type_),
                                                   ", but element ", packed_.count,
                                                   " of its data is ", Brief(value)));
  }

  template <typename Value>
  absl::Status AddInteger(const Json& value) {
    // The parser makes negative integers signed and all others unsigned.
    const bool fits =
        value.is_number_unsigned()
            ? value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<Value>::max())
            : value.is_number_integer() &&
                  value.get<int64_t>() >= static_cast<int64_t>(std::numeric_limits<Value>::min());
    if (!fits) return Wrong(value);
    AppendElement(value.get<Value>(), &packed_.data);
    return absl::OkStatus();
  }

  template <typename Value>
  absl::Status AddReal(const Json& value) {
    if (!value.is_number()) return Wrong(value);
    const auto real = static_cast<Value>(value.get<double>());
    if (std::isinf(real)) return Wrong(value);
    AppendElement(real, &packed_.data);
    return absl::OkStatus();
  }

  absl::Status AddElement(const Json& value) {
    switch (type_) {
      case DataType::kBool:
        if (!value.is_boolean()) return Wrong(value);
        AppendElement(static_cast<uint8_t>(value.get<bool>() ? 1 : 0), &packed_.data);
        return absl::OkStatus();
      case DataType::kUint8:
        return AddInteger<uint8_t>(value);
      case DataType::kUint16:
        return AddInteger<uint16_t>(value);
      case DataType::kUint32:
        return AddInteger<uint32_t>(value);
      case DataType::kUint64:
        return AddInteger<uint64_t>(value);
      case DataType::kInt8:
        return AddInteger<int8_t>(value);
      case DataType::kInt16:
        return AddInteger<int16_t>(value);
      case DataType::kInt32:
        return AddInteger<int32_t>(value);
      case DataType::kInt64:
        return AddInteger<int64_t>(value);
      case DataType::kFp32:
        return AddReal<float>(value);
      case DataType::kFp64:
        return AddReal<double>(value);
      case DataType::kBytes:
        if (!value.is_string()) return Wrong(value);
        AppendBytes(value.get_ref<const std::string&>(), &packed_.data);
        return absl::OkStatus();
      default:
        return absl::InvalidArgumentError(absl::StrCat(
            "sending ", NameOf(type_),
            " data via JSON is not supported. Please use the binary data format for input '",
            tensor_, "'"));
    }
  }

  const std::string& tensor_;
  const DataType type_;
  PackedJson packed_;
};

template <typename Value>
nlohmann::ordered_json Numbers(std::string_view data) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (size_t i = 0; i < data.size() / sizeof(Value); ++i) {
    array.push_back(ElementAt<Value>(data, i));
  }
  return array;
}

nlohmann::ordered_json Booleans(std::string_view data) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const char c : data) array.push_back(c != 0);
  return array;
}

nlohmann::ordered_json Strings(std::string_view data) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const std::string_view element : UnpackBytes(data)) array.push_back(element);
  return array;
}

}  // namespace

absl::StatusOr<PackedJson> PackJson(const std::string& tensor, DataType type, const Json& data) {
  Packer packer(tensor, type);
  RETURN_IF_ERROR(packer.Add(data));
  return packer.Take();
}

absl::StatusOr<nlohmann::ordered_json> UnpackJson(const std::string& tensor, DataType type,
                                                  std::string_view data) {
  switch (type) {
    case DataType::kBool:
      return Booleans(data);
    case DataType::kUint8:
      return Numbers<uint8_t>(data);
    case DataType::kUint16:
      return Numbers<uint16_t>(data);
    case DataType::kUint32:
      return Numbers<uint32_t>(data);
    case DataType::kUint64:
      return Numbers<uint64_t>(data);
    case DataType::kInt8:
      return Numbers<int8_t>(data);
    case DataType::kInt16:
      return Numbers<int16_t>(data);
    case DataType::kInt32:
      return Numbers<int32_t>(data);
    case DataType::kInt64:
      return Numbers<int64_t>(data);
    case DataType::kFp32:
      return Numbers<float>(data);
    case DataType::kFp64:
      return Numbers<double>(data);
    case DataType::kBytes:
      return Strings(data);
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "sending ", NameOf(type),
          " data via JSON is not supported. Please use the binary data format for output '", tensor,
          "'"));
  }
}

}  // namespace caravan
