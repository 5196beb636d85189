#ifdef CARAVAN_HAS_CUDA
#include "tests/kernels/peer_fixture.h"

#include <cstdlib>

#include "kernels/check.h"
#include "kernels/peer_all_reduce.h"

namespace caravan {
namespace {

// Streams that share a hardware queue run one after the other: with ranks on one GPU the first
// would wait for the second for ever. Set before the first call of CUDA.
[[maybe_unused]] const int kManyQueues = setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);

std::vector<CudaDevice> Gpus(std::string* why) {
  static std::string problem;
  static const std::vector<CudaDevice> gpus = FindCudaDevices(&problem);
  *why = problem;
  return gpus;
}

}  // namespace

bool HasGpu(std::string* why) { return !Gpus(why).empty(); }

PeerRanks::PeerRanks(int world_size, int64_t region_bytes, bool batch_invariant) {
  std::string problem;
  const size_t gpus = Gpus(&problem).size();
  CARAVAN_CHECK(gpus > 0, problem);
  std::vector<PeerEndpoint> endpoints;
  for (int r = 0; r < world_size; ++r) {
    const int device = r % static_cast<int>(gpus);
    Rank& rank = ranks_.emplace_back();
    rank.stream = CudaStream::Create(
        {.device = device, .workspace_bytes = 0, .batch_invariant = batch_invariant}, &problem);
    CARAVAN_CHECK(rank.stream != nullptr, problem);
    rank.memory = PeerMemory::Create(device, region_bytes, 5 * region_bytes, &problem);
    CARAVAN_CHECK(rank.memory != nullptr, problem);
    endpoints.push_back(rank.memory->endpoint());
    cuda::LoadPeerKernels();
  }
  for (int r = 0; r < world_size; ++r) {
    CARAVAN_CHECK(ranks_[r].memory->Map(r, endpoints, &problem), problem);
  }
}

PeerRanks::~PeerRanks() {
  for (Rank& rank : ranks_) rank.memory->Abort();
}

MatrixView PeerRanks::Put(int rank, const Tensor& tensor) {
  Rank& r = ranks_[rank];
  MatrixView view;
  const ConstMatrixView host = tensor.view();
  view.dtype = host.dtype;
  view.rows = host.rows;
  view.cols = host.cols;
  view.row_stride = host.row_stride;
  r.stream->MakeCurrent();
  const int64_t bytes = host.rows * host.row_stride * SizeOf(host.dtype);
  r.tensors.push_back(DeviceMemory::Allocate(bytes));
  view.data = r.tensors.back().data();
  CARAVAN_CHECK(view.data != nullptr, bytes, " bytes on the GPU");
  CopyToDevice(view.data, host.data, bytes, *r.stream);
  r.stream->Synchronize();
  return view;
}

void PeerRanks::Get(int rank, ConstMatrixView from, Tensor* to) {
  Rank& r = ranks_[rank];
  const MatrixView host = to->view();
  CARAVAN_CHECK(from.rows == host.rows && from.row_stride == host.row_stride &&
                from.dtype == host.dtype);
  r.stream->MakeCurrent();
  CopyToHost(host.data, from.data, host.rows * host.row_stride * SizeOf(host.dtype), *r.stream);
  r.stream->Synchronize();
}

void PeerRanks::ForEach(const std::function<void(int rank)>& body) {
  for (int r = 0; r < world_size(); ++r) {
    stream(r).MakeCurrent();
    body(r);
  }
}

void PeerRanks::Run(const std::function<void(int rank)>& body) {
  ForEach(body);
  ForEach([&](int rank) { stream(rank).Synchronize(); });
}

}  // namespace caravan
#endif
