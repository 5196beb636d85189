#include "worker/model/files/tensor_info.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace caravan {

std::optional<DType> TensorInfo::dtype() const {
  if (dtype_name == "F32") return DType::kFloat32;
  if (dtype_name == "F16") return DType::kFloat16;
  if (dtype_name == "BF16") return DType::kBFloat16;
  return std::nullopt;
}

std::string TensorInfo::ShapeText() const {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

int64_t ElementBytes(const std::string& dtype_name) {
  struct Entry {
    const char* name;
    int64_t bytes;
  };
  constexpr Entry kDtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                               {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                               {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  for (const Entry& entry : kDtypes) {
    if (dtype_name == entry.name) return entry.bytes;
  }
  return 0;
}

}  // namespace caravan
