#include "worker/model/runner/device_executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "common/log.h"
#include "common/status.h"
#include "kernels/sampling.h"

namespace caravan {
namespace {

void MakeCurrent(DeviceStream stream) {
  if (stream.device() == Device::kCuda) stream.cuda().MakeCurrent();
}

void Synchronize(DeviceStream stream) {
  if (stream.device() == Device::kCuda) stream.cuda().Synchronize();
}

// Those of the buckets that fit into a step.
std::vector<int32_t> BucketsWithin(const RunnerLimits& limits) {
  std::vector<int32_t> buckets = DecodeBuckets(limits.max_slots);
  std::erase_if(buckets, [&](int32_t rows) { return rows > limits.max_batch_tokens; });
  return buckets;
}

StepLayout PaddingOnly(int32_t rows) {
  StepLayout layout;
  PadStep(rows, &layout);
  return layout;
}

double MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

}  // namespace

DeviceExecutor::DeviceExecutor(LlamaModel* model, KvMemory kv, StepBuffers buffers,
                               const RunnerLimits& limits, bool graphs)
    : model_(model),
      stream_(model->stream()),
      kv_(std::move(kv)),
      limits_(limits),
      buckets_(BucketsWithin(limits)),
      use_graphs_(graphs),
      buffers_(std::move(buffers)),
      uploader_(&buffers_, limits.max_slots, stream_),
      mirror_(limits) {
  CARAVAN_CHECK(!graphs || stream_.device() == Device::kCuda);
}

DeviceExecutor::~DeviceExecutor() {
  MakeCurrent(stream_);
  Synchronize(stream_);
  graphs_.clear();  // before the group whose calls they hold
}

absl::Status DeviceExecutor::BeginEpoch(std::shared_ptr<Collectives> ranks) {
  MakeCurrent(stream_);
  Synchronize(stream_);
  graphs_.clear();
  mirror_.Clear();
  std::shared_ptr<Collectives> old = ranks;
  {
    const std::lock_guard lock(mutex_);
    in_flight_.clear();
    ranks_.swap(old);
  }
  old = nullptr;
  CARAVAN_CHECK(ranks->world_size() == 1 || ranks->gathers_on_all_ranks() || !ranks->status().ok());
  RETURN_IF_ERROR(ranks->status());
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(WarmUp());
  const double warm = MillisecondsSince(start);
  RETURN_IF_ERROR(CaptureGraphs());
  LogInfo("warmed up", {{"milliseconds", warm},
                        {"graphs", graphs_.size()},
                        {"capture_milliseconds", MillisecondsSince(start) - warm}});
  return ranks->status();
}

// Padding decodes, in every number of rows that there will be a graph for, and one prompt of the
// greatest length in slot 0, whose block table is all block 0: nothing lies in the blocks yet.
absl::Status DeviceExecutor::WarmUp() {
  for (const int32_t rows : buckets_) {
    RETURN_IF_ERROR(RunRows(PaddingOnly(rows)));
    if (!use_graphs_) break;
  }
  StepLayout prompt;
  prompt.rows.push_back({});
  StepRow& row = prompt.rows[0];
  row.slot = 0;
  row.num_tokens = std::min(limits_.max_batch_tokens, limits_.max_context_tokens);
  row.sample_row = 0;
  prompt.num_decodes = row.num_tokens == 1 ? 1 : 0;
  prompt.num_tokens = row.num_tokens;
  prompt.num_samples = 1;
  prompt.decode_context = prompt.prefill_context = row.num_tokens;
  return RunRows(prompt);
}

absl::Status DeviceExecutor::RunRows(const StepLayout& layout) {
  uploader_.Begin(&buffers_.staging(0));
  uploader_.Send(layout.rows);
  RETURN_IF_ERROR(Run(layout));
  Synchronize(stream_);
  return ranks_->status();
}

absl::Status DeviceExecutor::CaptureGraphs() {
  if (!use_graphs_) return absl::OkStatus();
  for (const int32_t rows : buckets_) {
    const StepLayout layout = PaddingOnly(rows);
    absl::Status status;
    CudaGraph graph = CudaGraph::Capture(stream_.cuda(), [&] {
      status = Run(layout);
      return status.ok();
    });
    RETURN_IF_ERROR(status);
    graphs_.emplace(rows, std::move(graph));
  }
  return absl::OkStatus();
}

absl::Status DeviceExecutor::Enqueue(const StepPlan& plan) {
  RETURN_IF_ERROR(ranks_->status());
  MakeCurrent(stream_);
  StepBuffers::Staging& staging = buffers_.staging(enqueued_++);
  staging.begun.Record(stream_);
  uploader_.Begin(&staging);
  RETURN_IF_ERROR(mirror_.Apply(
      plan, [this](SlotArray array, int32_t slot, int32_t offset, std::span<const int32_t> words) {
        uploader_.Change(array, slot, offset, words);
      }));
  StepLayout layout = LayOutStep(plan);
  ChooseRopeRows(&layout, staging);
  const bool padded = PadToBucket(&layout);
  uploader_.Send(layout.rows);
  CopyBlocks(plan.copies, staging);
  if (padded && use_graphs_) {
    graphs_.at(static_cast<int32_t>(layout.rows.size())).Launch(stream_.cuda());
  } else if (!layout.rows.empty()) {
    RETURN_IF_ERROR(Run(layout));
  }
  const auto outputs = buffers_.device().outputs.first(static_cast<size_t>(layout.num_samples));
  EnqueueDownload(staging.outputs.data(), outputs.data(),
                  static_cast<int64_t>(outputs.size_bytes()), stream_);
  staging.ended.Record(stream_);
  const std::lock_guard lock(mutex_);
  in_flight_.push_back({plan.step, &staging, std::move(layout.drawn)});
  return absl::OkStatus();
}

// Scratch rows of the rope table are filled on the host, for prompts that dynamic scaling
// stretches.
void DeviceExecutor::ChooseRopeRows(StepLayout* layout, StepBuffers::Staging& staging) {
  RopeTable& rope = model_->rope();
  rope.BeginStep();
  for (StepRow& row : layout->rows) {
    const int32_t prompt = mirror_.prompt_tokens(row.slot);
    if (!rope.NeedsScratch(prompt) || row.start_position >= prompt) continue;
    row.num_rope_rows = std::min(row.num_tokens, prompt - row.start_position);
    for (int32_t i = 0; i < row.num_rope_rows; ++i) {
      const int32_t rope_row = rope.RowFor(row.start_position + i, prompt);
      if (i == 0) row.rope_row = rope_row;
    }
  }
  const auto scratch = rope.scratch();
  if (scratch.empty()) return;
  // The table's own rows are written anew by the next step, while this one may still wait.
  std::memcpy(staging.rope.data(), scratch.data(), scratch.size_bytes());
  EnqueueUpload(rope.scratch_target(), staging.rope.data(),
                static_cast<int64_t>(scratch.size_bytes()), stream_);
}

// Makes a step in which every sequence decodes what a graph holds: padded to a bucket, and planned
// for contexts of any length. Without graphs too, so that the same kernels run in either way, and
// give the same bits. False where the step is of another kind.
bool DeviceExecutor::PadToBucket(StepLayout* layout) const {
  if (layout->rows.empty() || !layout->decodes_only()) return false;
  const auto rows = static_cast<int32_t>(layout->rows.size());
  const auto bucket = std::lower_bound(buckets_.begin(), buckets_.end(), rows);
  if (bucket == buckets_.end()) return false;
  PadStep(*bucket, layout);
  layout->decode_context = 0;
  return true;
}

void DeviceExecutor::CopyBlocks(const std::vector<KvBlockCopy>& copies,
                                StepBuffers::Staging& staging) {
  const std::span<BlockCopy> device = buffers_.device().copies;
  for (size_t begin = 0; begin < copies.size(); begin += device.size()) {
    const size_t count = std::min(device.size(), copies.size() - begin);
    if (begin > 0) Synchronize(stream_);  // the staging memory is written again
    for (size_t i = 0; i < count; ++i) {
      staging.copies.as<BlockCopy>()[i] = {copies[begin + i].from, copies[begin + i].to};
    }
    const auto some = device.first(count);
    EnqueueUpload(some.data(), staging.copies.data(), static_cast<int64_t>(some.size_bytes()),
                  stream_);
    for (int32_t layer = 0; layer < model_->config().num_layers; ++layer) {
      CopyKvBlocks(kv_.layer(layer), some, stream_);
    }
  }
}

// What a graph holds: from the rows, which are on the device, to the ids in the slots.
absl::Status DeviceExecutor::Run(const StepLayout& layout) {
  const StepMemory& device = buffers_.device();
  const auto rows = device.rows.first(layout.rows.size());
  const StepInputs inputs = device.InputsOf(
      layout.num_tokens, static_cast<int64_t>(layout.rows.size()), layout.num_samples);
  BuildStepInputs(device.tables, rows, limits_.vocab_size, inputs, stream_);
  ForwardBatch batch;
  batch.token_ids = inputs.token_ids;
  batch.rope_rows = inputs.rope_rows;
  batch.logit_rows = inputs.logit_rows;
  batch.paged.query_starts = inputs.query_starts;
  batch.paged.context_lengths = inputs.context_lengths;
  batch.paged.block_tables = device.tables.blocks;
  batch.paged.block_table_stride = device.tables.block_stride;
  batch.paged.table_rows = inputs.table_rows.data();
  batch.paged.num_decodes = layout.num_decodes;
  batch.paged.max_decode_context = layout.decode_context;
  batch.paged.max_prefill_context = layout.prefill_context;
  ASSIGN_OR_RETURN(const MatrixView logits, model_->Forward(batch, kv_, *ranks_, stream_));
  if (layout.num_samples == 0) return absl::OkStatus();
  const auto outputs = device.outputs.first(static_cast<size_t>(layout.num_samples));
  Sample(logits, limits_.vocab_size, inputs.sampling, outputs, stream_);
  StoreSampled(rows, outputs, device.tables, stream_);
  return absl::OkStatus();
}

absl::StatusOr<StepResult> DeviceExecutor::Finish() {
  InFlight step;
  std::shared_ptr<Collectives> ranks;
  {
    const std::lock_guard lock(mutex_);
    CARAVAN_CHECK(!in_flight_.empty(), "no step was enqueued");
    step = std::move(in_flight_.front());
    in_flight_.pop_front();
    ranks = ranks_;
  }
  MakeCurrent(stream_);
  step.staging->ended.Wait();
  RETURN_IF_ERROR(ranks->status());  // what Abort freed has no result
  StepResult result;
  result.step = step.step;
  result.run_seconds = step.staging->ended.SecondsSince(step.staging->begun);
  for (const StepLayout::Drawn& drawn : step.drawn) {
    const SamplingOutput& output = step.staging->outputs.as<SamplingOutput>()[drawn.sample_row];
    result.slots.push_back(SlotResultOf(drawn.slot, output));
  }
  return result;
}

}  // namespace caravan
