// Runs step plans on one rank: the ModelRunner of a single worker, and what leader and followers of
// a replica run their share on.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/model_runner.h"
#include "worker/model/collectives.h"
#include "worker/model/llama.h"
#include "worker/model/runner/step_executor.h"

namespace caravan {

struct LlamaRunnerOptions {
  int32_t block_tokens = 16;
  int32_t num_blocks = 0;                     // 0: as many as kv_cache_bytes hold
  int64_t kv_cache_bytes = int64_t{1} << 30;  // of this rank
  // On CUDA, where both are 0: as many blocks as all of this GPU's memory in use, the blocks
  // included, may take of it; at most max_blocks.
  double gpu_memory_fraction = 0.9;
  int32_t max_blocks = std::numeric_limits<int32_t>::max();
  int32_t max_slots = 256;  // at most the model's max_logit_rows
  int32_t max_steps_in_flight = 2;
  bool cuda_graphs = true;  // replay decoding steps from CUDA graphs
  // Keep the slots on the device, as CUDA does, on the CPU too (for tests: a single rank).
  bool slots_on_device = false;
};

// How far a rank is; what stands still while work is queued is wedged.
struct StepProgress {
  uint64_t steps_done = 0;  // since the runner was made, over epochs
  uint64_t step = 0;        // of the plan that was begun last; 0 before the first
  int32_t layers_done = 0;  // of that step
  uint64_t work_done = 0;   // grows with each layer, step and epoch begun; never falls
  bool busy = false;        // a step runs or is awaited, or the epoch begins
};

// One thread of its own starts the steps in order, so that Submit returns at once and the engine
// plans the next step meanwhile. Submit, Collect, Recover, Reset and AwaitEpoch are for one thread
// at a time; progress and Abort for any.
class LlamaRunner final : public ModelRunner {
 public:
  // Allocates the KV blocks. `ranks` has the model's rank and world size.
  static absl::StatusOr<std::unique_ptr<LlamaRunner>> Create(std::unique_ptr<LlamaModel> model,
                                                             std::shared_ptr<Collectives> ranks,
                                                             const LlamaRunnerOptions& options);
  ~LlamaRunner() override;

  const RunnerLimits& limits() const override { return executor_->limits(); }
  absl::Status Submit(const StepPlan& plan) override;
  // On rank 0 with log probabilities; on the others the ids at least.
  absl::StatusOr<StepResult> Collect() override;
  // A single rank has lost nothing and goes on empty. With several, FAILED_PRECONDITION: their
  // owner forms the next group and calls Reset.
  absl::Status Recover(absl::Duration timeout) override;

  // Begins an epoch: aborts the old group, waits for the step in progress to end, drops all steps,
  // slots and blocks, and goes on with `ranks`. The runner's thread makes ready for it (CUDA
  // graphs); steps submitted meanwhile wait.
  void Reset(std::shared_ptr<Collectives> ranks);
  // DEADLINE_EXCEEDED where the epoch that Reset began is not ready within `timeout`.
  absl::Status AwaitEpoch(absl::Duration timeout);
  // Makes the step in progress fail with UNAVAILABLE where it waits for another rank.
  void Abort();

  StepProgress progress() const;
  const LlamaModel& model() const { return *model_; }

 private:
  LlamaRunner(std::unique_ptr<LlamaModel> model, std::unique_ptr<StepExecutor> executor,
              std::shared_ptr<Collectives> ranks);
  void RunSteps();
  absl::Status Start(const StepPlan& plan);

  const std::unique_ptr<LlamaModel> model_;
  const std::unique_ptr<StepExecutor> executor_;  // see its header for which thread calls what

  std::atomic<uint64_t> steps_done_ = 0;
  std::atomic<uint64_t> step_ = 0;
  std::atomic<uint64_t> epochs_begun_ = 0;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::shared_ptr<Collectives> ranks_;
  std::deque<StepPlan> pending_;
  absl::Status failure_;
  int32_t uncollected_ = 0;  // submitted and not collected
  int32_t started_ = 0;      // of them, handed to the executor
  bool beginning_ = true;    // the executor has not begun the epoch of ranks_
  bool running_ = false;     // the thread is inside the executor
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace caravan
