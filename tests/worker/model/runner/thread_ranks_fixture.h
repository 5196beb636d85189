// The ranks of a replica as threads of one process.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/worker/model/runner/model_target_fixture.h"
#include "worker/engine/model_runner.h"
#include "worker/model/collectives.h"
#include "worker/model/loading/load_llama.h"
#include "worker/model/runner/llama_runner.h"

namespace caravan {

// How all-reduce adds. kByRowCount breaks the contract on purpose, to show that the tests of
// batching notice: where a call has one row, the running sum is kept in bfloat16.
enum class SumOrder { kByRank, kByRowCount };

// A group of `world_size` that meet in this process's host memory. What lies on a GPU is copied to
// it and back, which no CUDA graph can hold.
std::vector<std::shared_ptr<Collectives>> MakeThreadRanks(int world_size,
                                                          SumOrder order = SumOrder::kByRank);

// All ranks of a replica behind one ModelRunner: plans go to each, results come from rank 0. The
// other ranks' results are checked to hold the same ids.
class ThreadReplica final : public ModelRunner {
 public:
  // `load` and `options` are for each rank; shard, stream and what the target says are filled in.
  static std::unique_ptr<ThreadReplica> Make(LoadOptions load, const LlamaRunnerOptions& options,
                                             int world_size, SumOrder order = SumOrder::kByRank,
                                             const ModelTarget& target = {});
  ~ThreadReplica() override;

  const RunnerLimits& limits() const override { return ranks_[0]->limits(); }
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;
  absl::Status Recover(absl::Duration timeout) override;

  LlamaRunner& rank(int index) { return *ranks_[static_cast<size_t>(index)]; }

 private:
  std::vector<std::unique_ptr<CudaStream>> streams_;
  std::vector<std::unique_ptr<LlamaRunner>> ranks_;
};

// Runs one request after the other, each alone and its prompt in one step: what every batching must
// give. Returns the generated tokens.
std::vector<EmittedToken> GenerateAlone(ModelRunner& runner, const Request& request,
                                        int32_t sample_index = 0);

}  // namespace caravan
