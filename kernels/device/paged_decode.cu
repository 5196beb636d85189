// Decode attention with split KV: the steps of all sequences and KV heads are one line, cut into
// equal parts for the warps of the whole GPU, so that it is busy whatever the batch. A second
// kernel merges the sequences' heads that were cut.
#include <algorithm>

#include "kernels/device/cuda_check.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/online_softmax.cuh"
#include "kernels/device/paged_attention.cuh"
#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {
namespace {

constexpr int kStep = 16;        // positions that a warp handles at once
constexpr int kUnitRows = 16;    // query heads that it does so for, at most
constexpr int kSliceMost = 512;  // sequences of one launch: their lengths lie in shared memory

// Asynchronous copies in flight hide the latency of memory: 96 KiB a block leaves two blocks on an
// SM of Hopper, one on the others.
template <int kCols>
struct DecodeShape {
  static constexpr int kWarps = kCols > 128 ? 2 : 4;
  static constexpr int kTileBytes = SwizzledTile<kCols>::Bytes(kStep);
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kStages = (96 << 10) / (kWarps * kStageBytes);
  static constexpr int kStagesBytes = kWarps * kStages * kStageBytes;
};

// A unit is up to kUnitRows query heads of one KV head. Memory of one part of a unit's positions:
// `unit_rows` unscaled sums of head_size floats, and as many (maximum, sum of weights).
struct DecodePlan {
  int32_t count;  // sequences
  int32_t units;  // of each sequence
  int32_t units_per_kv_head;
  int32_t unit_rows;      // most rows of a unit
  int32_t workers;        // warps of the grid
  int32_t* first_steps;   // [count + 1] of each sequence, in steps of one unit
  float* partial_sums;    // [2 · workers, unit_rows, head_size]
  float2* partial_stats;  // [2 · workers, unit_rows]
};

// The line of all steps, and its parts. A part that holds a unit's first step but not all is its
// worker's partial 1, a part that goes on with another worker's unit is partial 0.
struct StepLine {
  int64_t steps;
  int64_t workers;

  __device__ StepLine(const DecodePlan& plan, int64_t steps_of_a_unit)
      : steps(steps_of_a_unit * plan.units), workers(min(int64_t{plan.workers}, steps)) {}
  __device__ int64_t FirstStepOf(int64_t worker) const { return worker * steps / workers; }
  __device__ int64_t WorkerOf(int64_t step) const { return ((step + 1) * workers - 1) / steps; }
};

// One warp's part of one unit.
struct DecodePart {
  int sequence;
  int unit;
  int kv_head;
  int first_head;  // query head
  int rows;
  int first_step;
  int end_step;
  int steps;  // of the whole unit
  int context;
};

// first_steps[s] = steps in front of sequence s, by the whole block.
template <int kThreads>
__device__ void CountSteps(const AttentionArguments& a, int count, int* first_steps) {
  __shared__ int warp_sums[kThreads / 32];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int before = 0;
  for (int base = 0; base < count; base += kThreads) {
    const int s = base + static_cast<int>(threadIdx.x);
    int through = s < count ? (a.context_lengths[s] + kStep - 1) / kStep : 0;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(~0u, through, distance);
      if (lane >= distance) through += other;
    }
    if (lane == 31) warp_sums[warp] = through;
    __syncthreads();
    int all = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w == warp) through += before + all;
      all += warp_sums[w];
    }
    before += all;
    if (s < count) first_steps[s + 1] = through;
    __syncthreads();
  }
  if (threadIdx.x == 0) first_steps[0] = 0;
  __syncthreads();
}

// The part of the line from `step` on, at most to `end`, that lies in one unit.
__device__ DecodePart PartAt(const AttentionArguments& a, const DecodePlan& plan,
                             const int* first_steps, int64_t step, int64_t end) {
  int low = 0;  // the last sequence that begins at `step` or before
  int high = plan.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (int64_t{first_steps[middle]} * plan.units <= step ? low : high) = middle;
  }
  DecodePart part;
  part.sequence = low;
  part.steps = first_steps[low + 1] - first_steps[low];
  const int in_sequence = static_cast<int>(step - int64_t{first_steps[low]} * plan.units);
  part.unit = in_sequence / part.steps;
  part.first_step = in_sequence - part.unit * part.steps;
  part.end_step = static_cast<int>(min(int64_t{part.steps}, part.first_step + (end - step)));
  part.kv_head = part.unit / plan.units_per_kv_head;
  const int first_row = part.unit % plan.units_per_kv_head * kUnitRows;
  part.first_head = part.kv_head * a.group + first_row;
  part.rows = min(kUnitRows, a.group - first_row);
  part.context = a.context_lengths[low];
  return part;
}

// What a warp knows of its unit while it walks along the positions, in fragments.
template <int kCols>
struct DecodeState {
  uint32_t q[kCols / 16][4];
  float out[kCols / 8][4];
  SoftmaxRows rows;
};

// Queries as fragments of A, zero where the unit has no row or the head no element.
template <typename T, int kCols>
__device__ void StartUnit(const AttentionArguments& a, const DecodePart& part,
                          DecodeState<kCols>& state) {
  const int lane = threadIdx.x % 32;
  const T* q = static_cast<const T*>(a.q) + part.sequence * a.q_stride +
               int64_t{part.first_head} * a.head_size;
#pragma unroll
  for (int k = 0; k < kCols / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8;
      const int column = k * 16 + i / 2 * 8 + lane % 4 * 2;
      state.q[k][i] = row < part.rows && column < a.head_size
                          ? *reinterpret_cast<const uint32_t*>(q + row * a.head_size + column)
                          : 0;
    }
  }
#pragma unroll
  for (auto& fragment : state.out) {
    for (float& x : fragment) x = 0;
  }
  state.rows = {};
}

// Starts to copy the keys and values of one step. `offset` is that of its first position, of use
// where a step lies in one block; else each row looks its block up.
template <typename T, int kCols>
__device__ void CopyStep(const AttentionArguments& a, const DecodePart& part, const int32_t* table,
                         int step, int64_t offset, uint32_t shared) {
  using Tile = SwizzledTile<kCols>;
  const bool one_block = a.block_tokens % kStep == 0;
#pragma unroll
  for (int i = 0; i < kStep * Tile::kChunks / 32; ++i) {
    const int index = i * 32 + static_cast<int>(threadIdx.x % 32);
    const int row = index / Tile::kChunks;
    const int chunk = index % Tile::kChunks;
    const int position = step * kStep + row;
    const bool valid = position < part.context && chunk * 8 < a.head_size;
    int64_t source = 0;
    if (one_block) {
      source = offset + row * a.head_size + chunk * 8;
    } else if (valid) {
      source = a.OffsetOf(table, part.kv_head, position) + chunk * 8;
    }
    const uint32_t to = shared + Tile::Offset(row, chunk);
    CopyAsync16(to, static_cast<const T*>(a.keys) + source, valid);
    CopyAsync16(to + Tile::Bytes(kStep), static_cast<const T*>(a.values) + source, valid);
  }
}

// scores = q · keysᵀ for 16 positions; -inf from `visible` positions on.
template <typename T, int kCols>
__device__ void ScoreStep(const DecodeState<kCols>& state, uint32_t keys, int visible,
                          float (&scores)[2][4]) {
  const int lane = threadIdx.x % 32;
  const FragmentAddress<kCols> address = AddressOfColumnsB<kCols>(lane);
#pragma unroll
  for (int k = 0; k < kCols / 16; ++k) {
    uint32_t b[4];
    LoadFragment(address.At(keys, k), b);
    MultiplyAdd<T>(scores[0], state.q[k], b[0], b[1]);
    MultiplyAdd<T>(scores[1], state.q[k], b[2], b[3]);
  }
  if (visible >= kStep) return;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n * 8 + lane % 4 * 2 + i % 2 >= visible) scores[n][i] = -INFINITY;
    }
  }
}

template <typename T, int kCols>
__device__ void AttendStep(const AttentionArguments& a, DecodeState<kCols>& state, uint32_t shared,
                           int visible) {
  float scores[2][4] = {};
  ScoreStep<T>(state, shared, visible, scores);
  float correction[2];
  FoldScores(a.scale, scores, state.rows, correction);
  Correct(correction, state.out);
  uint32_t weights[4];
  PackWeights<T>(scores, 0, weights);
  const FragmentAddress<kCols> address = AddressOfRowsB<kCols>(threadIdx.x % 32);
  const uint32_t values = shared + SwizzledTile<kCols>::Bytes(kStep);
#pragma unroll
  for (int n = 0; n < kCols / 16; ++n) {
    uint32_t b[4];
    LoadTransposed(address.At(values, n), b);
    MultiplyAdd<T>(state.out[2 * n], weights, b[0], b[1]);
    MultiplyAdd<T>(state.out[2 * n + 1], weights, b[2], b[3]);
  }
}

// All steps of a part, through the warp's own ring of stages: copies run kStages - 1 steps ahead,
// and no warp waits for another.
template <typename T, int kCols>
__device__ void AttendPart(const AttentionArguments& a, const DecodePart& part, uint32_t stages,
                           DecodeState<kCols>& state) {
  using Shape = DecodeShape<kCols>;
  const int32_t* table = a.TableOf(part.sequence);
  int next = part.first_step;
  int64_t offset = a.OffsetOf(table, part.kv_head, next * kStep);
  const auto copy_next = [&](int stage) {
    if (next < part.end_step) {
      CopyStep<T, kCols>(a, part, table, next, offset, stages + stage * Shape::kStageBytes);
      // Looked up one step ahead, since the copies wait for it.
      if (++next < part.end_step) offset = a.OffsetOf(table, part.kv_head, next * kStep);
    }
    CommitCopies();
  };
  __syncwarp();  // all lanes have read the last part's stages
  for (int stage = 0; stage < Shape::kStages - 1; ++stage) copy_next(stage);
  StartUnit<T>(a, part, state);
  int stage = 0;
  for (int step = part.first_step; step < part.end_step; ++step) {
    WaitForCopies<Shape::kStages - 2>();
    __syncwarp();  // of all lanes; and the stage of the step before is free
    copy_next(stage == 0 ? Shape::kStages - 1 : stage - 1);
    AttendStep<T>(a, state, stages + stage * Shape::kStageBytes, part.context - step * kStep);
    stage = stage == Shape::kStages - 1 ? 0 : stage + 1;
  }
}

// The whole unit is done: its output rows.
template <typename T, int kCols>
__device__ void StoreUnit(const AttentionArguments& a, const DecodePart& part,
                          const DecodeState<kCols>& state) {
  const int lane = threadIdx.x % 32;
  T* out = static_cast<T*>(a.out) + part.sequence * a.out_stride +
           int64_t{part.first_head} * a.head_size;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    const float factor = 1 / state.rows.Total(h);
    if (row >= part.rows) continue;
#pragma unroll
    for (int n = 0; n < kCols / 8; ++n) {
      if (n * 8 >= a.head_size) continue;
      *reinterpret_cast<uint32_t*>(out + row * a.head_size + n * 8 + lane % 4 * 2) =
          PackPair<T>(state.out[n][2 * h] * factor, state.out[n][2 * h + 1] * factor);
    }
  }
}

template <int kCols>
__device__ void StorePartial(const AttentionArguments& a, const DecodePlan& plan,
                             const DecodePart& part, int64_t worker,
                             const DecodeState<kCols>& state) {
  const int lane = threadIdx.x % 32;
  const int64_t partial = 2 * worker + (part.first_step == 0 ? 1 : 0);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    const float total = state.rows.Total(h);
    if (row >= part.rows) continue;
    const int64_t index = partial * plan.unit_rows + row;
    float* sums = plan.partial_sums + index * a.head_size + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kCols / 8; ++n) {
      if (n * 8 >= a.head_size) continue;
      *reinterpret_cast<float2*>(sums + n * 8) =
          make_float2(state.out[n][2 * h], state.out[n][2 * h + 1]);
    }
    if (lane % 4 == 0) {
      plan.partial_stats[index] = make_float2(state.rows.maximum[h], total);
    }
  }
}

// Each warp takes an equal part of all steps, alone: reading the cache is what bounds decoding, so
// no warp may wait for another. The heads of a group are rows of one tensor-core tile, so that
// keys and values are read once.
template <typename T, int kCols>
__global__ void __launch_bounds__(DecodeShape<kCols>::kWarps * 32)
    DecodeKernel(const AttentionArguments a, const DecodePlan plan) {
  using Shape = DecodeShape<kCols>;
  extern __shared__ __align__(128) unsigned char memory[];
  ReleaseSuccessor();
  WaitForPredecessor();
  int* first_steps = reinterpret_cast<int*>(memory + Shape::kStagesBytes);
  CountSteps<Shape::kWarps * 32>(a, plan.count, first_steps);
  if (blockIdx.x == 0) {
    for (int s = threadIdx.x; s <= plan.count; s += blockDim.x) {
      plan.first_steps[s] = first_steps[s];
    }
  }
  const StepLine line(plan, first_steps[plan.count]);
  const int warp = threadIdx.x / 32;
  const int64_t worker = int64_t{warp} * gridDim.x + blockIdx.x;  // few: one to an SM
  if (worker >= line.workers) return;
  const uint32_t stages = SharedAddress(memory) + warp * Shape::kStages * Shape::kStageBytes;
  const int64_t end = line.FirstStepOf(worker + 1);
  DecodeState<kCols> state;
  for (int64_t step = line.FirstStepOf(worker); step < end;) {
    const DecodePart part = PartAt(a, plan, first_steps, step, end);
    AttendPart<T>(a, part, stages, state);
    if (part.end_step - part.first_step == part.steps) {
      StoreUnit<T>(a, part, state);
    } else {
      StorePartial(a, plan, part, worker, state);
    }
    step += part.end_step - part.first_step;
  }
}

// The partials [first, first + count) of one unit: the first is its worker's partial 1, the others
// are partial 0.
struct Partials {
  const DecodePlan& plan;
  int64_t first_worker;
  int count;
  int row;

  __device__ int64_t IndexOf(int i) const {
    return (2 * (first_worker + i) + (i == 0 ? 1 : 0)) * plan.unit_rows + row;
  }
};

// The greatest maximum of all partials, in every lane.
__device__ float GreatestOf(const Partials& partials) {
  float greatest = -INFINITY;
  for (int i = threadIdx.x % 32; i < partials.count; i += 32) {
    greatest = fmaxf(greatest, partials.plan.partial_stats[partials.IndexOf(i)].x);
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, distance));
  }
  return greatest;
}

constexpr int kMergeColumns = 4;  // of a lane, twice: 256 in all
constexpr int kMergeWarps = 8;

// One lane's share of a merged row.
struct MergedRow {
  float values[2][kMergeColumns];
  float sum;

  __device__ void Add(const MergedRow& other) {
    sum += other.sum;
    for (int c = 0; c < 2; ++c) {
      for (int i = 0; i < kMergeColumns; ++i) values[c][i] += other.values[c][i];
    }
  }
};

// The warp's share of the partials, every so many-th, in ascending order.
__device__ MergedRow SumPartials(const Partials& partials, int head_size) {
  const int column = threadIdx.x % 32 * kMergeColumns;
  const int warps = blockDim.x / 32;
  const float greatest = GreatestOf(partials);
  MergedRow result = {};
#pragma unroll 4
  for (int i = threadIdx.x / 32; i < partials.count; i += warps) {
    const int64_t index = partials.IndexOf(i);
    const float2 stats = partials.plan.partial_stats[index];
    const float weight = Exp2(stats.x - greatest);
    const float* sums = partials.plan.partial_sums + index * head_size;
    result.sum += weight * stats.y;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (column + c * 128 >= head_size) continue;
      const auto part = *reinterpret_cast<const Pack<float, 4>*>(sums + column + c * 128);
      for (int k = 0; k < kMergeColumns; ++k) result.values[c][k] += weight * part.element[k];
    }
  }
  return result;
}

// A block per row of a unit, its warps over the partials, its lanes over the head: there are many
// partials where there are few rows. Units that one worker did whole are already stored.
template <typename T>
__global__ void __launch_bounds__(32 * kMergeWarps)
    MergeKernel(const AttentionArguments a, const DecodePlan plan) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const int unit = blockIdx.x / plan.unit_rows;
  const int row = blockIdx.x % plan.unit_rows;
  const int sequence = blockIdx.y;
  const int head_in_group = unit % plan.units_per_kv_head * kUnitRows + row;
  const int first = plan.first_steps[sequence];
  const int steps = plan.first_steps[sequence + 1] - first;
  if (steps == 0 || head_in_group >= a.group) return;
  const StepLine line(plan, plan.first_steps[plan.count]);
  const int64_t begin = int64_t{first} * plan.units + int64_t{unit} * steps;
  const int64_t first_worker = line.WorkerOf(begin);
  const int64_t last_worker = line.WorkerOf(begin + steps - 1);
  if (first_worker == last_worker) return;
  MergedRow merged = SumPartials(
      {plan, first_worker, static_cast<int>(last_worker - first_worker + 1), row}, a.head_size);
  extern __shared__ MergedRow shares[];  // [warps, lanes]
  shares[threadIdx.x] = merged;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  for (unsigned other = threadIdx.x + 32; other < blockDim.x; other += 32) {
    merged.Add(shares[other]);
  }
  const int64_t head = int64_t{unit / plan.units_per_kv_head} * a.group + head_in_group;
  T* out = static_cast<T*>(a.out) + sequence * a.out_stride + head * a.head_size;
  for (int c = 0; c < 2; ++c) {
    const int column = static_cast<int>(threadIdx.x) * kMergeColumns + c * 128;
    if (column >= a.head_size) continue;
    Pack<T, kMergeColumns> pack;
    for (int k = 0; k < kMergeColumns; ++k) {
      pack.element[k] = FromFloat<T>(merged.values[c][k] / merged.sum);
    }
    *reinterpret_cast<Pack<T, kMergeColumns>*>(out + column) = pack;
  }
}

// The plan's memory, from the workspace.
DecodePlan MakePlan(const AttentionArguments& a, int32_t count, int32_t workers,
                    const CudaStream& stream) {
  DecodePlan plan = {};
  plan.count = count;
  plan.units_per_kv_head = (a.group + kUnitRows - 1) / kUnitRows;
  plan.units = a.kv_heads * plan.units_per_kv_head;
  plan.unit_rows = std::min(a.group, kUnitRows);
  plan.workers = workers;
  const int64_t rows = int64_t{2} * workers * plan.unit_rows;
  plan.partial_sums = static_cast<float*>(stream.workspace());
  plan.partial_stats = reinterpret_cast<float2*>(plan.partial_sums + rows * a.head_size);
  plan.first_steps = reinterpret_cast<int32_t*>(plan.partial_stats + rows);
  const int64_t bytes = rows * (a.head_size * 4 + 8) + (kSliceMost + 1) * 4;
  CARAVAN_CHECK(bytes <= stream.workspace_bytes(), "attention needs ", bytes,
                " bytes of workspace, not ", stream.workspace_bytes());
  return plan;
}

template <typename T, int kCols>
void LaunchSlice(const AttentionArguments& a, int32_t count, int64_t max_context,
                 CudaStream& stream) {
  using Shape = DecodeShape<kCols>;
  const int per_sm = stream.device().compute_capability == 90 ? 2 : 1;
  const int64_t units = int64_t{a.kv_heads} * ((a.group + kUnitRows - 1) / kUnitRows);
  const int64_t most_steps = count * units * ((max_context + kStep - 1) / kStep);
  const int blocks = static_cast<int>(std::max<int64_t>(
      1, std::min<int64_t>(most_steps, int64_t{stream.device().num_multiprocessors} * per_sm)));
  const DecodePlan plan = MakePlan(a, count, blocks * Shape::kWarps, stream);
  const int shared = Shape::kStagesBytes + (count + 1) * 4;
  CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(DecodeKernel<T, kCols>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  LaunchDependent(DecodeKernel<T, kCols>,
                  {.grid = dim3(static_cast<unsigned>(blocks)),
                   .threads = Shape::kWarps * 32,
                   .shared_bytes = static_cast<size_t>(shared)},
                  stream, a, plan);
  // About as many partials a unit as there are workers for it.
  const int64_t partials = plan.workers / (count * units) + 1;
  const int warps = partials > 16 ? kMergeWarps : partials > 4 ? 2 : 1;
  LaunchDependent(
      MergeKernel<T>,
      {.grid = dim3(static_cast<unsigned>(units * plan.unit_rows), static_cast<unsigned>(count)),
       .threads = 32 * warps,
       .shared_bytes = warps * 32 * sizeof(MergedRow)},
      stream, a, plan);
}

template <typename T>
void Launch(AttentionArguments a, int32_t count, int64_t max_context, CudaStream& stream) {
  for (int32_t first = 0; first < count; first += kSliceMost) {
    AttentionArguments slice = a;
    slice.q = static_cast<const T*>(a.q) + first * a.q_stride;
    slice.out = static_cast<T*>(a.out) + first * a.out_stride;
    slice.context_lengths += first;
    if (a.table_rows == nullptr) {
      slice.block_tables += first * a.block_table_stride;
    } else {
      slice.table_rows += first;
    }
    const int32_t n = std::min(kSliceMost, count - first);
    if (a.head_size <= 64) {
      LaunchSlice<T, 64>(slice, n, max_context, stream);
    } else if (a.head_size <= 96) {
      LaunchSlice<T, 96>(slice, n, max_context, stream);
    } else if (a.head_size <= 128) {
      LaunchSlice<T, 128>(slice, n, max_context, stream);
    } else {
      LaunchSlice<T, 256>(slice, n, max_context, stream);
    }
  }
}

}  // namespace

void LaunchDecodeAttention(const AttentionArguments& arguments, DType dtype, int32_t count,
                           int64_t max_context, CudaStream& stream) {
  if (dtype == DType::kFloat16) {
    Launch<__half>(arguments, count, max_context, stream);
  } else {
    Launch<__nv_bfloat16>(arguments, count, max_context, stream);
  }
}

}  // namespace caravan::cuda
