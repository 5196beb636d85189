// Ranks of one process on the GPUs that there are, one after the other; several share a GPU where
// there are fewer. Built with CUDA only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/cuda_stream.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/peer_memory.h"
#include "tests/kernels/op_fixture.h"

namespace caravan {

// False with the reason where this machine has no GPU.
bool HasGpu(std::string* why);

// One thread enqueues for all ranks in turn: what waits for peers waits on the devices.
class PeerRanks {
 public:
  // The ring is five times as large as a region, as in production.
  PeerRanks(int world_size, int64_t region_bytes, bool batch_invariant = false);
  ~PeerRanks();

  int world_size() const { return static_cast<int>(ranks_.size()); }
  const PeerView& peers(int rank) const { return ranks_[rank].memory->view(); }
  CudaStream& stream(int rank) { return *ranks_[rank].stream; }
  PeerMemory& memory(int rank) { return *ranks_[rank].memory; }

  // A copy of `tensor` on the rank's GPU, for as long as this lives; and back.
  MatrixView Put(int rank, const Tensor& tensor);
  void Get(int rank, ConstMatrixView from, Tensor* to);

  // Calls body(rank) for each rank with its GPU current; ForEach does not wait, Run does.
  void ForEach(const std::function<void(int rank)>& body);
  void Run(const std::function<void(int rank)>& body);

 private:
  struct Rank {
    std::unique_ptr<CudaStream> stream;
    std::unique_ptr<PeerMemory> memory;
    std::vector<DeviceMemory> tensors;
  };
  std::vector<Rank> ranks_;
};

}  // namespace caravan
