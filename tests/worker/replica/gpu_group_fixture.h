// Groups of ranks on GPUs: as threads of this process, or as processes that run a test of this
// program. Built with CUDA only.
#pragma once

#include <sys/types.h>

#include <barrier>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/cuda_stream.h"
#include "worker/replica/collectives_builder.h"

namespace caravan {

// False with the reason where this machine has not so many GPUs.
bool HasGpus(int count, std::string* why);

// Specs of a group whose ranks take the GPUs of this machine by turns.
std::vector<GroupSpec> MakeGpuSpecs(CollectivesKind kind, int world_size);

// All ranks in this process, each with a stream of its own.
class GpuGroup {
 public:
  GpuGroup(CollectivesKind kind, int world_size, bool batch_invariant = false);
  ~GpuGroup();  // aborts

  int world_size() const { return static_cast<int>(ranks_.size()); }
  Collectives& ranks(int rank) { return *ranks_[rank]; }
  CudaStream& stream(int rank) { return *streams_[rank]; }

  // Runs `body` for each rank on a thread with its GPU current, and waits for its stream. Memory is
  // allocated before the first and freed after the last call of any rank (Meet in between): both
  // may wait for all that runs in this process.
  void Run(const std::function<void(Collectives& ranks, CudaStream& stream)>& body);
  void Meet() { meeting_.arrive_and_wait(); }  // of all ranks, inside `body`

 private:
  std::barrier<> meeting_;
  std::vector<std::unique_ptr<CudaStream>> streams_;
  std::vector<std::unique_ptr<Collectives>> ranks_;
};

// Rank 0 in this process, every other one in a process of its own, which runs the test `body` of
// this program and leaves with its result. CUDA can't be used after a fork without exec.
class GpuRankProcesses {
 public:
  GpuRankProcesses(CollectivesKind kind, int world_size, const std::string& body);
  ~GpuRankProcesses();  // kills what still runs

  Collectives& rank0() { return *rank0_; }
  void Kill(int rank);
  // Waits for the process; its exit code, or minus the signal that ended it.
  int Join(int rank);

 private:
  std::unique_ptr<Collectives> rank0_;
  std::vector<pid_t> pids_;  // by rank; 0 for this process
};

// In such a process its part of the group, else null: the test skips.
std::unique_ptr<Collectives> ConnectAsRankProcess(int* gpu);

}  // namespace caravan
