#include "worker/model/model_memory.h"

#include <cstring>
#include <string>
#include <utility>

#include "common/status.h"

namespace caravan {

absl::StatusOr<ModelMemory> ModelMemory::Allocate(DeviceStream stream, int64_t bytes,
                                                  std::string_view what) {
  ModelMemory memory;
  if (bytes <= 0) return memory;
  if (stream.device() == Device::kCpu) {
    ASSIGN_OR_RETURN(memory.host_, HostBuffer::Allocate(bytes, what));
    return memory;
  }
  stream.cuda().MakeCurrent();
  memory.device_ = DeviceMemory::Allocate(bytes);
  if (memory.data() != nullptr) return memory;
  return absl::ResourceExhaustedError(absl::StrCat(
      "GPU ", stream.cuda().device().index, " has not ", BytesText(bytes), " in one piece for ",
      std::string(what), "; ", BytesText(QueryDeviceMemory().free_bytes), " are free"));
}

absl::Status CheckMemory(DeviceStream stream, int64_t bytes, std::string_view what,
                         std::string_view remedy) {
  if (stream.device() == Device::kCpu) return CheckHostMemory(bytes, what, remedy);
  stream.cuda().MakeCurrent();
  const int64_t available = QueryDeviceMemory().free_bytes;
  if (bytes <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      std::string(what), " need ", BytesText(bytes), " of GPU ", stream.cuda().device().index,
      "'s memory (", bytes, " bytes), ", BytesText(available), " are free; ", std::string(remedy)));
}

void CopyFromHost(void* to, const void* from, int64_t bytes, DeviceStream stream) {
  if (bytes <= 0) return;
  if (stream.device() == Device::kCpu) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  CopyToDevice(to, from, bytes, stream.cuda());
  stream.cuda().Synchronize();
}

}  // namespace caravan
