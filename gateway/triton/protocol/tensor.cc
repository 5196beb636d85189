#include "gateway/triton/protocol/tensor.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"

namespace caravan {
namespace {

struct TypeInfo {
  const char* name;
  size_t size;
};

// By DataType.
constexpr std::array<TypeInfo, 15> kTypes = {{{"<invalid>", 0},
                                              {"BOOL", 1},
                                              {"UINT8", 1},
                                              {"UINT16", 2},
                                              {"UINT32", 4},
                                              {"UINT64", 8},
                                              {"INT8", 1},
                                              {"INT16", 2},
                                              {"INT32", 4},
                                              {"INT64", 8},
                                              {"FP16", 2},
                                              {"FP32", 4},
                                              {"FP64", 8},
                                              {"BYTES", 0},
                                              {"BF16", 2}}};

absl::Status CheckBytesData(const std::string& tensor, int64_t count, std::string_view data) {
  size_t offset = 0;
  int64_t found = 0;
  while (offset < data.size()) {
    const size_t left = data.size() - offset;
    if (left < sizeof(uint32_t)) {
      return absl::InvalidArgumentError(
          absl::StrCat("incomplete string length indicator for inference input '", tensor,
                       "', expecting 4 bytes but only ", left, " bytes available. Expecting ",
                       count, " string elements for inference input '", tensor, "'."));
    }
    const uint32_t length = ElementAt<uint32_t>(data.substr(offset), 0);
    if (length > left - sizeof(uint32_t)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "incomplete string data for inference input '", tensor, "', expecting string of length ",
          length, " but only ", left - sizeof(uint32_t), " bytes available. Expecting ", count,
          " string elements for inference input '", tensor, "'."));
    }
    offset += sizeof(uint32_t) + length;
    ++found;
  }
  if (found == count) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("unexpected number of string elements ", found,
                                                 " for inference input '", tensor, "', expecting ",
                                                 count));
}

}  // namespace

const char* NameOf(DataType type) { return kTypes.at(static_cast<size_t>(type)).name; }

DataType ParseDataType(std::string_view name) {
  for (size_t i = 1; i < kTypes.size(); ++i) {
    if (name == kTypes[i].name) return static_cast<DataType>(i);
  }
  return DataType::kInvalid;
}

size_t SizeOf(DataType type) { return kTypes.at(static_cast<size_t>(type)).size; }

std::string ToString(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ","), "]");
}

absl::StatusOr<int64_t> NumElements(const std::string& tensor, const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ToString(shape), " of '", tensor, "' has a negative dimension"));
    }
    // Both factors are at most 2^31 here, or one of them ends it.
    if (dimension > kMaxElements || (count *= dimension) > kMaxElements) {
      return absl::InvalidArgumentError(absl::StrCat("shape ", ToString(shape), " of '", tensor,
                                                     "' has more than ", kMaxElements,
                                                     " elements"));
    }
  }
  return count;
}

absl::Status CheckData(const std::string& tensor, DataType type, int64_t count,
                       std::string_view data) {
  if (type == DataType::kBytes) return CheckBytesData(tensor, count, data);
  const size_t expected = static_cast<size_t>(count) * SizeOf(type);
  if (data.size() == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("input byte size mismatch for input '", tensor,
                                                 "'. Expected ", expected, ", got ", data.size()));
}

std::vector<std::string_view> UnpackBytes(std::string_view data) {
  std::vector<std::string_view> elements;
  while (!data.empty()) {
    const size_t length = ElementAt<uint32_t>(data, 0);
    elements.push_back(data.substr(sizeof(uint32_t), length));
    data.remove_prefix(sizeof(uint32_t) + length);
  }
  return elements;
}

void AppendBytes(std::string_view element, std::string* data) {
  AppendElement(static_cast<uint32_t>(element.size()), data);
  data->append(element);
}

}  // namespace caravan
