// Groups of ranks for the tests of collectives: as threads of this process, or as forked processes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/replica/collectives_builder.h"

namespace caravan {

// Specs of a group with a name that no other group has.
std::vector<GroupSpec> MakeGroupSpecs(CollectivesKind kind, int world_size);

// A connected group, all ranks in this process; fails the test where it can't be made.
std::vector<std::unique_ptr<Collectives>> MakeGroup(CollectivesKind kind, int world_size);

// Runs `body` for each rank of a group, each on a thread.
void RunThreads(CollectivesKind kind, int world_size,
                const std::function<void(Collectives& collectives)>& body);

// One rank of a group as a process: connects, runs `body` and exits with its result.
class RankProcesses {
 public:
  // Forks all ranks but rank 0, which `rank0` gives to the caller.
  RankProcesses(CollectivesKind kind, int world_size,
                const std::function<int(Collectives& collectives)>& body);
  ~RankProcesses();  // kills what still runs

  Collectives& rank0() { return *rank0_; }
  void Kill(int rank);
  // Waits for the process; its exit code, or minus the signal that ended it.
  int Join(int rank);

 private:
  std::unique_ptr<Collectives> rank0_;
  std::vector<int> pids_;  // by rank; 0 for this process
};

}  // namespace caravan
