#include "gateway/triton/protocol/infer_message.h"

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace caravan {
namespace {

absl::StatusOr<uint64_t> Unsigned(const std::string& tensor, const char* name,
                                  const InferParameter& value) {
  if (const auto* number = std::get_if<int64_t>(&value); number != nullptr && *number >= 0) {
    return static_cast<uint64_t>(*number);
  }
  if (const auto* number = std::get_if<uint64_t>(&value)) return *number;
  return absl::InvalidArgumentError(absl::StrCat("invalid value for '", name, "' parameter of '",
                                                 tensor,
                                                 "', expected an int64 that is not negative"));
}

}  // namespace

absl::StatusOr<std::optional<SharedMemoryUse>> SharedMemoryUseOf(
    const std::string& tensor, const InferParameters& parameters) {
  const auto region = parameters.find(kSharedMemoryRegion);
  const auto byte_size = parameters.find(kSharedMemoryByteSize);
  const auto offset = parameters.find(kSharedMemoryOffset);
  if (region == parameters.end()) {
    if (byte_size == parameters.end() && offset == parameters.end()) return std::nullopt;
    return absl::InvalidArgumentError(
        absl::StrCat("'", kSharedMemoryRegion, "' is missing beside '", kSharedMemoryByteSize,
                     "' or '", kSharedMemoryOffset, "' of '", tensor, "'"));
  }
  SharedMemoryUse use;
  const auto* name = std::get_if<std::string>(&region->second);
  if (name == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("invalid value for '", kSharedMemoryRegion,
                                                   "' parameter of '", tensor,
                                                   "', expected a string"));
  }
  use.region = *name;
  if (byte_size == parameters.end()) {
    return absl::InvalidArgumentError(absl::StrCat("'", kSharedMemoryByteSize,
                                                   "' is missing beside '", kSharedMemoryRegion,
                                                   "' of '", tensor, "'"));
  }
  ASSIGN_OR_RETURN(use.byte_size, Unsigned(tensor, kSharedMemoryByteSize, byte_size->second));
  if (offset != parameters.end()) {
    ASSIGN_OR_RETURN(use.offset, Unsigned(tensor, kSharedMemoryOffset, offset->second));
  }
  return use;
}

}  // namespace caravan
