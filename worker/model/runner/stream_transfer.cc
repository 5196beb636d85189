#include "worker/model/runner/stream_transfer.h"

#include <cstring>
#include <string>

#include "common/status.h"

namespace caravan {

absl::StatusOr<StagingMemory> StagingMemory::Allocate(DeviceStream stream, int64_t bytes,
                                                      std::string_view what) {
  StagingMemory memory;
  if (bytes <= 0) return memory;
  if (stream.device() == Device::kCpu) {
    ASSIGN_OR_RETURN(memory.host_, HostBuffer::Allocate(bytes, what));
    return memory;
  }
  stream.cuda().MakeCurrent();
  memory.pinned_ = PinnedMemory::Allocate(bytes);
  if (memory.data() != nullptr) return memory;
  return absl::ResourceExhaustedError(
      absl::StrCat("can't lock ", BytesText(bytes), " of host memory for ", std::string(what)));
}

void EnqueueUpload(void* device, const void* staging, int64_t bytes, DeviceStream stream) {
  if (bytes <= 0) return;
  if (stream.device() == Device::kCpu) {
    std::memcpy(device, staging, static_cast<size_t>(bytes));
  } else {
    CopyToDevice(device, staging, bytes, stream.cuda());
  }
}

void EnqueueDownload(void* staging, const void* device, int64_t bytes, DeviceStream stream) {
  if (bytes <= 0) return;
  if (stream.device() == Device::kCpu) {
    std::memcpy(staging, device, static_cast<size_t>(bytes));
  } else {
    CopyToHost(staging, device, bytes, stream.cuda());
  }
}

StreamEvent StreamEvent::Create(DeviceStream stream) {
  StreamEvent event;
  event.on_cuda_ = stream.device() == Device::kCuda;
  if (event.on_cuda_) event.cuda_ = CudaEvent::Create();
  return event;
}

void StreamEvent::Record(DeviceStream stream) {
  if (on_cuda_) {
    cuda_.Record(stream.cuda());
  } else {
    time_ = std::chrono::steady_clock::now();
  }
}

void StreamEvent::Wait() const {
  if (on_cuda_) cuda_.Wait();
}

double StreamEvent::SecondsSince(const StreamEvent& earlier) const {
  if (on_cuda_) return cuda_.SecondsSince(earlier.cuda_);
  return std::chrono::duration<double>(time_ - earlier.time_).count();
}

}  // namespace caravan
