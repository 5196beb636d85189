#include "worker/model/collectives.h"

#include <cstring>

#include "common/status.h"
#include "kernels/device/device_memory.h"
#include "kernels/rms_norm.h"

namespace caravan {

absl::Status Collectives::AllReduceAddRmsNorm(const ReducedNorm& norm, DeviceStream stream) {
  RETURN_IF_ERROR(AllReduceSum(norm.partial, stream));
  AddRmsNorm(norm.partial, norm.weight, norm.epsilon, norm.residual, norm.out, stream);
  return absl::OkStatus();
}

absl::Status SingleRankCollectives::AllReduceSum(MatrixView, DeviceStream) {
  return absl::OkStatus();
}

absl::Status SingleRankCollectives::GatherColumns(ConstMatrixView shard, MatrixView full,
                                                  DeviceStream stream) {
  CARAVAN_CHECK(shard.rows == full.rows && shard.cols == full.cols && shard.dtype == full.dtype);
  if (shard.data == full.data) return absl::OkStatus();
  if (stream.device() == Device::kCuda) {
    CARAVAN_CHECK(shard.row_stride == shard.cols && full.row_stride == full.cols);
    CopyOnDevice(full.data, shard.data, shard.rows * shard.cols * SizeOf(shard.dtype),
                 stream.cuda());
    return absl::OkStatus();
  }
  for (int64_t r = 0; r < shard.rows; ++r) {
    std::memcpy(full.row(r), shard.row(r), static_cast<size_t>(shard.cols * SizeOf(shard.dtype)));
  }
  return absl::OkStatus();
}

absl::Status SingleRankCollectives::Broadcast(void*, size_t, int) { return absl::OkStatus(); }

}  // namespace caravan
