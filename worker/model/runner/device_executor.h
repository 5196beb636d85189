// Steps on a device that keeps the slots itself: a step is enqueued while the one before runs, and
// the ids that one draws feed the next without passing through the host.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/device/cuda_graph.h"
#include "worker/model/kv_memory.h"
#include "worker/model/llama.h"
#include "worker/model/runner/slot_mirror.h"
#include "worker/model/runner/slot_uploader.h"
#include "worker/model/runner/step_executor.h"
#include "worker/model/runner/step_layout.h"
#include "worker/model/runner/step_memory.h"

namespace caravan {

// Runs on the model's stream; all ranks draw, each for itself, so a group of several must gather on
// all ranks. Steps in which every sequence decodes one token are padded to a few numbers of rows
// and, on CUDA, replayed from graphs, which each epoch captures anew.
class DeviceExecutor final : public StepExecutor {
 public:
  // `model` outlives it. `graphs` needs a model on CUDA.
  DeviceExecutor(LlamaModel* model, KvMemory kv, StepBuffers buffers, const RunnerLimits& limits,
                 bool graphs);
  ~DeviceExecutor() override;

  const RunnerLimits& limits() const override { return limits_; }
  // Runs one step of each kind, so that nothing is loaded or chosen in the middle of a request, and
  // captures the graphs. All ranks meet in that.
  absl::Status BeginEpoch(std::shared_ptr<Collectives> ranks) override;
  absl::Status Enqueue(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Finish() override;

 private:
  struct InFlight {
    uint64_t step = 0;
    StepBuffers::Staging* staging = nullptr;
    std::vector<StepLayout::Drawn> drawn;
  };

  absl::Status WarmUp();
  absl::Status CaptureGraphs();
  absl::Status RunRows(const StepLayout& layout);  // uploads the rows, and nothing else
  bool PadToBucket(StepLayout* layout) const;
  void ChooseRopeRows(StepLayout* layout, StepBuffers::Staging& staging);
  void CopyBlocks(const std::vector<KvBlockCopy>& copies, StepBuffers::Staging& staging);
  absl::Status Run(const StepLayout& layout);

  LlamaModel* const model_;
  const DeviceStream stream_;
  const KvMemory kv_;
  const RunnerLimits limits_;
  const std::vector<int32_t> buckets_;  // rows that decoding steps are padded to, ascending
  const bool use_graphs_;
  StepBuffers buffers_;
  SlotUploader uploader_;
  SlotMirror mirror_;
  uint64_t enqueued_ = 0;
  std::map<int32_t, CudaGraph> graphs_;  // by rows

  std::mutex mutex_;  // guards the rest, between Enqueue and Finish
  std::shared_ptr<Collectives> ranks_;
  std::deque<InFlight> in_flight_;
};

}  // namespace caravan
