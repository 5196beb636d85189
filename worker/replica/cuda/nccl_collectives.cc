#include "worker/replica/cuda/nccl_collectives.h"

#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/peer_all_reduce.h"
#include "worker/replica/cuda/gpu_rank.h"
#include "worker/replica/cuda/nccl_library.h"

namespace caravan {
namespace {

constexpr absl::Duration kPoll = absl::Microseconds(50);
// A call in progress ends within microseconds, unless the stream is full behind a kernel that waits
// for the lost peer: then only the abort lets it go on.
constexpr auto kPatience = std::chrono::milliseconds(20);

absl::Status NcclError(ncclResult_t result) {
  return absl::UnavailableError(
      absl::StrCat("NCCL: ", ncclGetErrorString(result), " ", ncclGetLastError(nullptr)));
}

ncclDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ncclFloat32;
    case DType::kFloat16:
      return ncclFloat16;
    case DType::kBFloat16:
      return ncclBfloat16;
  }
  return ncclFloat32;
}

// A communicator, made, used and ended by different threads.
class Communicator {
 public:
  explicit Communicator(int gpu) : gpu_(gpu) {}
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  // Waits until the communicator is gone, which CUDA graphs with its calls delay.
  ~Communicator() {
    Abort();
    if (aborting_.joinable()) aborting_.join();
  }

  // UNAVAILABLE with NCCL's reason, DEADLINE_EXCEEDED after `timeout`.
  absl::Status Connect(const ncclUniqueId& id, int rank, int world_size, absl::Duration timeout) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    // NCCL takes the thread's current device.
    if (const cudaError_t error = cudaSetDevice(gpu_); error != cudaSuccess) {
      return absl::UnavailableError(absl::StrCat("GPU ", gpu_, ": ", cudaGetErrorString(error)));
    }
    return Call(absl::Now() + timeout, [&] {
      const ncclResult_t result = ncclCommInitRankConfig(&made_, world_size, id, rank, &config);
      communicator_ = made_;
      return result;
    });
  }

  // Enqueues what `call` enqueues.
  template <typename Body>
  absl::Status Enqueue(const Body& call) {
    return Call(absl::InfiniteFuture(), [&] { return call(communicator_); });
  }

  absl::Status status() {
    RETURN_IF_ERROR(Standing());
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return absl::OkStatus();  // a call is under way, which tells itself
    if (aborted_) return Standing();
    ncclResult_t result = ncclSuccess;
    ncclCommGetAsyncError(communicator_, &result);
    if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
    return NcclError(result);
  }

  void Abort() {
    if (aborted_.exchange(true)) return;
    // ncclCommAbort ends the kernels first and at once, then waits for graphs to be destroyed.
    aborting_ = std::thread([this] {
      std::unique_lock lock(mutex_, kPatience);
      // It is being made: there are no kernels to end yet, but there will be what is to be freed.
      if (!lock.owns_lock() && communicator_ == nullptr) lock.lock();
      if (communicator_ != nullptr) ncclCommAbort(communicator_);
    });
  }

 private:
  absl::Status Standing() const {
    return aborted_ ? GroupGivenUp("a rank was lost") : absl::OkStatus();
  }

  // Never waits for Abort, whose thread may itself wait for CUDA graphs of the caller.
  absl::Status Lock(std::unique_lock<std::timed_mutex>& lock) const {
    RETURN_IF_ERROR(Standing());
    while (!lock.try_lock_for(kPatience)) RETURN_IF_ERROR(Standing());
    return Standing();
  }

  // Makes a call, and waits until NCCL has done its own part of it.
  template <typename Body>
  absl::Status Call(absl::Time deadline, const Body& call) {
    std::unique_lock lock(mutex_, std::defer_lock);
    RETURN_IF_ERROR(Lock(lock));
    ncclResult_t result = call();
    while (result == ncclInProgress) {
      lock.unlock();
      if (absl::Now() > deadline) return absl::DeadlineExceededError("");
      absl::SleepFor(kPoll);
      RETURN_IF_ERROR(Lock(lock));
      if (const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &result);
          asked != ncclSuccess) {
        result = asked;
      }
    }
    return result == ncclSuccess ? absl::OkStatus() : NcclError(result);
  }

  const int gpu_;
  std::atomic<bool> aborted_{false};
  std::timed_mutex mutex_;  // guards the calls of communicator_, but for Abort's patience
  std::atomic<ncclComm_t> communicator_ = nullptr;
  ncclComm_t made_ = nullptr;  // NCCL may write it once more from a thread of its own
  std::thread aborting_;       // Abort's
};

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(std::shared_ptr<Communicator> communicator, int rank, int world_size)
      : communicator_(std::move(communicator)), rank_(rank), world_size_(world_size) {}
  ~NcclCollectives() override { NcclCollectives::Abort(); }

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  bool gathers_on_all_ranks() const override { return true; }
  void Abort() override { communicator_->Abort(); }
  absl::Status status() const override { return communicator_->status(); }

  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override {
    CARAVAN_CHECK(x.row_stride == x.cols);
    // NCCL's order depends on where in x an element lies. Between two ranks there is but one order.
    if (stream.cuda().batch_invariant() && world_size_ > 2) return SumInOrder(x, stream.cuda());
    return communicator_->Enqueue([&](ncclComm_t communicator) {
      return ncclAllReduce(x.data, x.data, static_cast<size_t>(x.rows * x.cols), TypeOf(x.dtype),
                           ncclSum, communicator, stream.cuda().handle());
    });
  }

  // Row by row in one group, since a row's shards lie side by side.
  absl::Status GatherColumns(ConstMatrixView shard, MatrixView full, DeviceStream stream) override {
    CARAVAN_CHECK(shard.row_stride == shard.cols && full.cols == shard.cols * world_size_ &&
                  full.rows == shard.rows && full.dtype == shard.dtype);
    return communicator_->Enqueue([&](ncclComm_t communicator) {
      ncclResult_t result = ncclGroupStart();
      for (int64_t row = 0; row < shard.rows && result == ncclSuccess; ++row) {
        result = ncclAllGather(shard.row(row), full.row(row), static_cast<size_t>(shard.cols),
                               TypeOf(shard.dtype), communicator, stream.cuda().handle());
        if (result == ncclInProgress) result = ncclSuccess;  // the group's end tells
      }
      const ncclResult_t end = ncclGroupEnd();
      return result == ncclSuccess ? end : result;
    });
  }

  absl::Status Broadcast(void*, size_t, int) override {
    return absl::UnimplementedError("ranks on GPUs gather on all ranks and broadcast nothing");
  }

 private:
  // Gathers the addends in the stream's workspace and adds them there.
  absl::Status SumInOrder(MatrixView x, CudaStream& stream) {
    const int64_t element = SizeOf(x.dtype);
    const int64_t count = x.rows * x.cols;
    const int64_t step = stream.workspace_bytes() / world_size_ / element;
    CARAVAN_CHECK(step > 0, stream.workspace_bytes(), " bytes of workspace");
    for (int64_t first = 0; first < count; first += step) {
      const int64_t size = std::min(step, count - first);
      void* const part = static_cast<std::byte*>(x.data) + first * element;
      RETURN_IF_ERROR(communicator_->Enqueue([&](ncclComm_t communicator) {
        return ncclAllGather(part, stream.workspace(), static_cast<size_t>(size), TypeOf(x.dtype),
                             communicator, stream.handle());
      }));
      cuda::SumInRankOrder(stream.workspace(), world_size_, DenseMatrix(part, x.dtype, 1, size),
                           stream);
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<Communicator> communicator_;
  const int rank_;
  const int world_size_;
};

class NcclBuilder final : public CollectivesBuilder {
 public:
  NcclBuilder(const GroupSpec& spec, const ncclUniqueId& id)
      : spec_(spec), communicator_(std::make_shared<Communicator>(spec.gpu)) {
    // The id (of rank 0; zeros elsewhere), then the place for a person.
    address_.assign(id.internal, sizeof(id.internal));
    address_ += DescribePlace(spec.host, spec.gpu);
  }

  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Collectives>> Connect(
      std::span<const std::string> addresses) override {
    std::vector<std::string> places;
    ncclUniqueId id;
    RETURN_IF_ERROR(Decode(addresses, &id, &places));
    const absl::Time start = absl::Now();
    absl::Status status =
        communicator_->Connect(id, spec_.rank, spec_.world_size, spec_.connect_timeout);
    auto group = std::make_unique<NcclCollectives>(communicator_, spec_.rank, spec_.world_size);
    if (status.ok()) {
      cuda::LoadPeerKernels();  // SumInRankOrder among them
      status = RunFirstCalls(*group, spec_.gpu, start + spec_.connect_timeout - absl::Now());
    }
    if (status.ok()) return group;
    communicator_->Abort();
    const std::string why =
        absl::IsDeadlineExceeded(status)
            ? absl::StrCat("no answer within ", absl::FormatDuration(spec_.connect_timeout))
            : std::string(status.message());
    return absl::UnavailableError(absl::StrCat(
        "rank ", spec_.rank, " ", places[static_cast<size_t>(spec_.rank)],
        " can't connect through NCCL to ", DescribeOthers(places, spec_.rank), ": ", why));
  }

  void Abort() override { communicator_->Abort(); }

 private:
  absl::Status Decode(std::span<const std::string> addresses, ncclUniqueId* id,
                      std::vector<std::string>* places) const {
    if (static_cast<int>(addresses.size()) != spec_.world_size) {
      return absl::UnavailableError(absl::StrCat("rendezvous of ", addresses.size(),
                                                 " ranks in a replica of ", spec_.world_size));
    }
    for (const std::string& address : addresses) {
      if (address.size() < sizeof(id->internal)) {
        return absl::UnavailableError(
            absl::StrCat("rank ", places->size(), " sent no address of NCCL"));
      }
      places->push_back(address.substr(sizeof(id->internal)));
    }
    std::memcpy(id->internal, addresses[0].data(), sizeof(id->internal));
    return absl::OkStatus();
  }

  const GroupSpec spec_;
  const std::shared_ptr<Communicator> communicator_;
  std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeNcclBuilder(const GroupSpec& spec) {
  if (!NcclLibrary().problem().empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "NCCL is needed by ranks on several hosts and on GPUs without peer access, and "
        "can't be loaded: ",
        NcclLibrary().problem()));
  }
  ncclUniqueId id = {};
  if (spec.rank == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess) return NcclError(result);
  }
  return std::make_unique<NcclBuilder>(spec, id);
}

}  // namespace caravan
