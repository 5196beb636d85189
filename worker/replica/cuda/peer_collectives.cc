#include "worker/replica/cuda/peer_collectives.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "kernels/device/peer_memory.h"
#include "kernels/peer_all_reduce.h"
#include "worker/replica/cuda/gpu_rank.h"
#include "worker/replica/local_host.h"

namespace caravan {
namespace {

// Of one of two regions, of which a launch uses 1 / world_size for each rank's data.
constexpr int64_t kRegionBytes = int64_t{16} << 20;

// A rank's address: the endpoint, the boot id of its host, and its place for a person, each ended
// by a zero.
std::string EncodeAddress(const PeerEndpoint& endpoint, const std::string& place) {
  std::string address(sizeof(endpoint), '\0');
  std::memcpy(address.data(), &endpoint, sizeof(endpoint));
  return absl::StrCat(address, LocalBootId(), absl::string_view("", 1), place,
                      absl::string_view("", 1));
}

struct PeerAddress {
  PeerEndpoint endpoint;
  std::string boot_id;
  std::string place;
};

absl::StatusOr<PeerAddress> DecodeAddress(int rank, const std::string& bytes) {
  PeerAddress address;
  const size_t boot_id_end = bytes.find('\0', sizeof(PeerEndpoint));
  if (bytes.size() <= sizeof(PeerEndpoint) || boot_id_end == std::string::npos ||
      bytes.back() != '\0') {
    return absl::UnavailableError(absl::StrCat("rank ", rank, " sent no address of peer memory"));
  }
  std::memcpy(&address.endpoint, bytes.data(), sizeof(PeerEndpoint));
  address.boot_id = bytes.substr(sizeof(PeerEndpoint), boot_id_end - sizeof(PeerEndpoint));
  address.place = bytes.substr(boot_id_end + 1, bytes.size() - boot_id_end - 2);
  return address;
}

class PeerCollectives final : public Collectives {
 public:
  explicit PeerCollectives(std::shared_ptr<PeerMemory> memory) : memory_(std::move(memory)) {}
  ~PeerCollectives() override { PeerCollectives::Abort(); }

  int rank() const override { return memory_->view().rank; }
  int world_size() const override { return memory_->view().world_size; }
  bool gathers_on_all_ranks() const override { return true; }
  void Abort() override { memory_->Abort(); }

  absl::Status status() const override {
    return memory_->aborted() ? GroupGivenUp("a rank was lost") : absl::OkStatus();
  }

  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override {
    RETURN_IF_ERROR(status());
    cuda::PeerAllReduceSum(memory_->view(), x, stream.cuda());
    return absl::OkStatus();
  }

  absl::Status AllReduceAddRmsNorm(const ReducedNorm& norm, DeviceStream stream) override {
    RETURN_IF_ERROR(status());
    const cuda::PeerReducedNorm fused = {norm.partial, norm.weight, norm.epsilon, norm.residual,
                                         norm.out};
    if (!cuda::ShouldFuse(memory_->view(), fused, stream.cuda())) {
      return Collectives::AllReduceAddRmsNorm(norm, stream);
    }
    cuda::PeerAllReduceAddRmsNorm(memory_->view(), fused, stream.cuda());
    return absl::OkStatus();
  }

  absl::Status GatherColumns(ConstMatrixView shard, MatrixView full, DeviceStream stream) override {
    RETURN_IF_ERROR(status());
    cuda::PeerGatherColumns(memory_->view(), shard, full, stream.cuda());
    return absl::OkStatus();
  }

  absl::Status Broadcast(void*, size_t, int) override {
    return absl::UnimplementedError("ranks on GPUs gather on all ranks and broadcast nothing");
  }

 private:
  const std::shared_ptr<PeerMemory> memory_;
};

class PeerBuilder final : public CollectivesBuilder {
 public:
  PeerBuilder(std::shared_ptr<PeerMemory> memory, const GroupSpec& spec)
      : memory_(std::move(memory)),
        spec_(spec),
        address_(EncodeAddress(memory_->endpoint(), DescribePlace(spec.host, spec.gpu))) {}

  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Collectives>> Connect(
      std::span<const std::string> addresses) override {
    std::vector<PeerEndpoint> endpoints;
    std::vector<std::string> places;
    RETURN_IF_ERROR(Decode(addresses, &endpoints, &places));
    std::string problem;
    if (!memory_->Map(spec_.rank, endpoints, &problem)) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank ", spec_.rank, " can't map the memory of its peers: ", problem));
    }
    cuda::LoadPeerKernels();
    auto group = std::make_unique<PeerCollectives>(memory_);
    const absl::Status status = RunFirstCalls(*group, spec_.gpu, spec_.connect_timeout);
    if (absl::IsDeadlineExceeded(status)) {
      return absl::UnavailableError(
          absl::StrCat("rank ", spec_.rank, " ", places[static_cast<size_t>(spec_.rank)],
                       " waited ", absl::FormatDuration(spec_.connect_timeout),
                       " for a first sum with ", DescribeOthers(places, spec_.rank)));
    }
    RETURN_IF_ERROR(status);
    return group;
  }

  void Abort() override { memory_->Abort(); }

 private:
  absl::Status Decode(std::span<const std::string> addresses, std::vector<PeerEndpoint>* endpoints,
                      std::vector<std::string>* places) const {
    if (static_cast<int>(addresses.size()) != spec_.world_size) {
      return absl::UnavailableError(absl::StrCat("rendezvous of ", addresses.size(),
                                                 " ranks in a replica of ", spec_.world_size));
    }
    for (int r = 0; r < spec_.world_size; ++r) {
      ASSIGN_OR_RETURN(const PeerAddress address,
                       DecodeAddress(r, addresses[static_cast<size_t>(r)]));
      if (address.boot_id != LocalBootId()) {
        return absl::FailedPreconditionError(
            absl::StrCat("rank ", r, " ", address.place, " is not on the host of rank ", spec_.rank,
                         ": peer memory is for ranks of one host, use nccl"));
      }
      endpoints->push_back(address.endpoint);
      places->push_back(address.place);
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<PeerMemory> memory_;
  const GroupSpec spec_;
  const std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakePeerBuilder(const GroupSpec& spec) {
  if (spec.world_size > kMostPeers) {
    return absl::FailedPreconditionError(absl::StrCat(
        "peer memory is for at most ", kMostPeers, " ranks, not ", spec.world_size, ": use nccl"));
  }
  std::string problem;
  std::unique_ptr<PeerMemory> memory =
      PeerMemory::Create(spec.gpu, kRegionBytes, cuda::RingBytesFor(spec.world_size), &problem);
  if (memory == nullptr) return absl::UnavailableError(problem);
  return std::make_unique<PeerBuilder>(std::move(memory), spec);
}

}  // namespace caravan
