// A rank's own runner, as leader and follower see it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/model_runner.h"
#include "worker/model/collectives.h"

namespace caravan {

// How far a rank is; what stands still while it is busy is wedged.
struct RankProgress {
  uint64_t steps_done = 0;  // over epochs
  int32_t layers_done = 0;  // of the step that runs
  uint64_t work_done = 0;   // grows with each layer, step and epoch begun; never falls
  bool busy = false;        // a step runs or is awaited, or the epoch begins
};

// Submit, Collect, Reset and AwaitEpoch are for one thread at a time, progress for any.
class RankRunner {
 public:
  virtual ~RankRunner() = default;

  virtual const RunnerLimits& limits() const = 0;

  // As ModelRunner's. UNAVAILABLE where the group of ranks was given up; other errors are fatal.
  virtual absl::Status Submit(const StepPlan& plan) = 0;
  virtual absl::StatusOr<StepResult> Collect() = 0;

  // Begins an epoch with `ranks`: everything that was there is dropped, weights stay.
  virtual void Reset(std::shared_ptr<Collectives> ranks) = 0;

  // Waits until the rank can run steps of that epoch (all ranks may be needed for that):
  // DEADLINE_EXCEEDED after `timeout` (call again), UNAVAILABLE where a rank was lost meanwhile.
  virtual absl::Status AwaitEpoch(absl::Duration timeout) { return absl::OkStatus(); }

  virtual RankProgress progress() const = 0;
};

// The limits as text, equal where two ranks can run the same plans. The number of blocks is left
// out: ranks agree on the least.
std::string DescribeLimits(const RunnerLimits& limits);

// Of a rank on a CUDA device, or on the CPU (-1): "cuda", "cpu".
const char* DeviceName(int gpu);

// The group of a rank before its first epoch: every call gives UNAVAILABLE.
class DisbandedCollectives final : public Collectives {
 public:
  DisbandedCollectives(int rank, int world_size) : rank_(rank), world_size_(world_size) {}
  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  absl::Status status() const override;
  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override;
  absl::Status GatherColumns(ConstMatrixView shard, MatrixView full, DeviceStream stream) override;
  absl::Status Broadcast(void* data, size_t bytes, int root) override;
  void Abort() override {}

 private:
  const int rank_;
  const int world_size_;
};

}  // namespace caravan
