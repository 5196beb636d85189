#include "worker/replica/cuda/gpu_rank.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/device_memory.h"
#include "worker/replica/local_host.h"

namespace caravan {
namespace {

// Rows of the first sums: what one token, a batch and a chunk of a prompt take.
constexpr int64_t kFirstRows[] = {1, 32, 512};
constexpr int64_t kFirstCols = 1024;
constexpr absl::Duration kPoll = absl::Microseconds(100);

// All calls that a step makes. `group` may be one of a single rank.
absl::Status EnqueueFirstCalls(Collectives& group, void* memory, CudaStream& cuda) {
  const DeviceStream stream = DeviceStream::Cuda(cuda);
  const int64_t bytes = kFirstRows[std::size(kFirstRows) - 1] * kFirstCols * 4;
  auto* const second = static_cast<std::byte*>(memory) + bytes;
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const int64_t rows : kFirstRows) {
      const MatrixView x = DenseMatrix(memory, dtype, rows, kFirstCols);
      RETURN_IF_ERROR(group.AllReduceSum(x, stream));
      const ConstVectorView weight = {second, dtype, kFirstCols};
      const MatrixView residual = DenseMatrix(second + bytes, dtype, rows, kFirstCols);
      RETURN_IF_ERROR(group.AllReduceAddRmsNorm({x, weight, 1e-5F, residual, x}, stream));
    }
    const ConstMatrixView shard = DenseMatrix(static_cast<const void*>(memory), dtype, 2, 64);
    const MatrixView full = DenseMatrix(second, dtype, 2, shard.cols * group.world_size());
    RETURN_IF_ERROR(group.GatherColumns(shard, full, stream));
  }
  return absl::OkStatus();
}

}  // namespace

std::string DescribePlace(const std::string& address, int gpu) {
  std::string problem;
  const std::vector<CudaDevice> devices = FindCudaDevices(&problem);
  const bool known = gpu >= 0 && gpu < static_cast<int>(devices.size());
  return absl::StrCat("(host ", LocalHostName(), ", address ", address, ", GPU ",
                      known ? devices[static_cast<size_t>(gpu)].pci_bus_id : absl::StrCat(gpu),
                      ")");
}

std::string DescribeOthers(std::span<const std::string> places, int rank) {
  std::string others;
  for (size_t r = 0; r < places.size(); ++r) {
    if (static_cast<int>(r) == rank) continue;
    absl::StrAppend(&others, others.empty() ? "" : ", ", "rank ", r, " ", places[r]);
  }
  return others;
}

absl::Status GroupGivenUp(const std::string& why) {
  return absl::UnavailableError(absl::StrCat("the group of ranks was given up: ", why));
}

absl::Status RunFirstCalls(Collectives& group, int gpu, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::string problem;
  // The workspace is what sums in rank order gather into.
  const std::unique_ptr<CudaStream> stream =
      CudaStream::Create({.device = gpu, .workspace_bytes = int64_t{1} << 20}, &problem);
  if (stream == nullptr) return absl::UnavailableError(problem);
  const DeviceMemory memory =
      DeviceMemory::Allocate(3 * kFirstRows[std::size(kFirstRows) - 1] * kFirstCols * 4);
  if (memory.data() == nullptr) {
    return absl::UnavailableError(absl::StrCat("GPU ", gpu, " has no memory left to try sums in"));
  }
  // Loading the code of what does not wait for peers would wait for kernels that do.
  SingleRankCollectives alone;
  RETURN_IF_ERROR(EnqueueFirstCalls(alone, memory.data(), *stream));
  stream->Synchronize();
  absl::Status status = EnqueueFirstCalls(group, memory.data(), *stream);
  while (status.ok() && !stream->IsIdle()) {
    status = group.status();
    if (status.ok() && absl::Now() > deadline) status = absl::DeadlineExceededError("");
    absl::SleepFor(kPoll);
  }
  if (status.ok()) status = group.status();
  if (!status.ok()) group.Abort();
  stream->Synchronize();
  return status;
}

}  // namespace caravan
