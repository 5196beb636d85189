// Decode attention with split KV: the steps of all sequences and KV heads are one line, cut into
// equal parts for the warps of the whole GPU, so that it is busy whatever the batch. A second
// kernel merges the units that were cut.
#include <algorithm>
#include <type_traits>

#include "kernels/device/cuda_check.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/online_softmax.cuh"
#include "kernels/device/paged_decode.cuh"
#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {
namespace {

// Asynchronous copies in flight hide the latency of memory: 96 KiB a block leaves two blocks on an
// SM of Hopper, one on the others.
template <int kCols>
struct DecodeShape {
  static constexpr int kWarps = kCols > 128 ? 2 : 4;
  static constexpr int kTileBytes = SwizzledTile<kCols>::Bytes(kDecodeStep);
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kStages = (96 << 10) / (kWarps * kStageBytes);
  static constexpr int kStagesBytes = kWarps * kStages * kStageBytes;
};

// Sequences of one launch at most: what is known of them lies in shared memory too.
constexpr int kMostSequences = 224;         // within the 99 KiB of sm_86
constexpr int kMostSequencesHopper = 1024;  // twice within 227 KiB
constexpr int SequencesBytes(int count) { return (3 * count + 1) * 4; }

// The sequences in shared memory.
struct SequenceTable {
  int* first_steps;  // [count + 1] steps in front of each, of one unit
  int* contexts;     // [count]
  int* table_rows;   // [count]

  __device__ SequenceTable(unsigned char* memory, int count)
      : first_steps(reinterpret_cast<int*>(memory)),
        contexts(first_steps + count + 1),
        table_rows(contexts + count) {}
};

// Fills the table, by the whole block.
template <int kThreads>
__device__ void LoadSequences(const AttentionArguments& a, int count,
                              const SequenceTable& sequences) {
  __shared__ int warp_sums[kThreads / 32];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int before = 0;
  for (int base = 0; base < count; base += kThreads) {
    const int s = base + static_cast<int>(threadIdx.x);
    int through = 0;
    if (s < count) {
      const int context = a.context_lengths[s];
      sequences.contexts[s] = context;
      sequences.table_rows[s] = a.table_rows == nullptr ? s : a.table_rows[s];
      through = (context + kDecodeStep - 1) / kDecodeStep;
    }
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
    if (s < count) sequences.first_steps[s + 1] = through;
    __syncthreads();
  }
  if (threadIdx.x == 0) sequences.first_steps[0] = 0;
  __syncthreads();
}

// Some successive steps of one unit.
struct DecodePart {
  int sequence;
  int kv_head;
  int first_head;  // query head
  int rows;
  int first_step;
  int end_step;
  int steps;  // of the whole unit
  int context;
  const int32_t* table;

  __device__ int num_steps() const { return end_step - first_step; }
  __device__ bool is_whole() const { return num_steps() == steps; }
};

// What a warp works on.
struct DecodeWork {
  const AttentionArguments& a;
  const DecodePlan& plan;
  const SequenceTable& sequences;
  uint32_t stages;  // its ring of stages in shared memory

  // The steps [step, end) of the line as far as they lie in one unit.
  __device__ DecodePart PartAt(unsigned step, unsigned end) const {
    int low = 0;  // the last sequence that begins at `step` or before
    for (int high = plan.count; high - low > 1;) {
      const int middle = (low + high) / 2;
      if (static_cast<unsigned>(sequences.first_steps[middle]) * plan.units <= step) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const int first_step = sequences.first_steps[low];
    const unsigned steps = sequences.first_steps[low + 1] - first_step;
    const unsigned in_sequence = step - static_cast<unsigned>(first_step) * plan.units;
    const unsigned unit = in_sequence / steps;
    DecodePart part;
    part.sequence = low;
    part.steps = static_cast<int>(steps);
    part.first_step = static_cast<int>(in_sequence - unit * steps);
    part.end_step = static_cast<int>(min(steps, part.first_step + (end - step)));
    int first_row = 0;
    part.kv_head = static_cast<int>(unit);
    if (plan.units_per_kv_head > 1) {
      part.kv_head /= plan.units_per_kv_head;
      first_row = (static_cast<int>(unit) - part.kv_head * plan.units_per_kv_head) * kUnitRows;
    }
    part.first_head = part.kv_head * a.group + first_row;
    part.rows = min(kUnitRows, a.group - first_row);
    part.context = sequences.contexts[low];
    part.table = a.block_tables + sequences.table_rows[low] * a.block_table_stride;
    return part;
  }
};

// What a warp knows of its unit while it walks along the positions, in fragments.
template <int kCols>
struct DecodeState {
  uint32_t q[kCols / 16][4];
  float out[kCols / 8][4];
  SoftmaxRows rows;

  __device__ void Reset() {
#pragma unroll
    for (auto& fragment : out) {
      for (float& x : fragment) x = 0;
    }
    rows = {};
  }
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
  state.Reset();
}

// Copies steps of the line into stages, ahead of those that are computed.
template <typename T, int kCols>
class StepCopier {
 public:
  __device__ StepCopier(const DecodeWork& work, unsigned step, unsigned end)
      : work_(work), step_(step), end_(end) {
    if (step_ < end_) Enter();
  }

  // Starts to copy the next step, if there is one, as one group in any case.
  __device__ void CopyNext(int stage) {
    if (step_ < end_) {
      Copy(work_.stages + stage * DecodeShape<kCols>::kStageBytes);
      // The place of the step after is looked up now, since its copies would wait for it.
      if (++step_ < end_) {
        if (++next_ == part_.end_step) {
          Enter();
        } else {
          offset_ = work_.a.OffsetOf(part_.table, part_.kv_head, next_ * kDecodeStep);
        }
      }
    }
    CommitCopies();
  }

 private:
  using Tile = SwizzledTile<kCols>;

  __device__ void Enter() {
    part_ = work_.PartAt(step_, end_);
    next_ = part_.first_step;
    offset_ = work_.a.OffsetOf(part_.table, part_.kv_head, next_ * kDecodeStep);
  }
  __device__ void Copy(uint32_t shared) const {
    const AttentionArguments& a = work_.a;
    if (a.block_tokens % kDecodeStep == 0) {
#pragma unroll
      for (int i = 0; i < kDecodeStep * Tile::kChunks / 32; ++i) {
        const int row = RowOf(i);
        CopyChunk(shared, row, ChunkOf(i), offset_ + row * a.head_size);
      }
      return;
    }
    // The step lies in several blocks, and each row looks its own up.
#pragma unroll 1
    for (int i = 0; i < kDecodeStep * Tile::kChunks / 32; ++i) {
      const int position = min(next_ * kDecodeStep + RowOf(i), part_.context - 1);
      CopyChunk(shared, RowOf(i), ChunkOf(i), a.OffsetOf(part_.table, part_.kv_head, position));
    }
  }
  // The lane's i-th chunk of keys and of values.
  __device__ static int RowOf(int i) {
    return (i * 32 + static_cast<int>(threadIdx.x % 32)) / Tile::kChunks;
  }
  __device__ static int ChunkOf(int i) {
    return (i * 32 + static_cast<int>(threadIdx.x % 32)) % Tile::kChunks;
  }
  __device__ void CopyChunk(uint32_t shared, int row, int chunk, int64_t row_offset) const {
    const AttentionArguments& a = work_.a;
    const bool valid = next_ * kDecodeStep + row < part_.context && chunk * 8 < a.head_size;
    const int64_t source = row_offset + chunk * 8;
    const uint32_t to = shared + Tile::Offset(row, chunk);
    CopyAsync16(to, static_cast<const T*>(a.keys) + source, valid);
    CopyAsync16(to + Tile::Bytes(kDecodeStep), static_cast<const T*>(a.values) + source, valid);
  }

  const DecodeWork& work_;
  unsigned step_;  // the next one to copy
  const unsigned end_;
  DecodePart part_;  // that it lies in
  int next_;         // its number in the unit
  int64_t offset_;   // of its first position
};

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
  if (visible >= kDecodeStep) return;
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
  const uint32_t values = shared + SwizzledTile<kCols>::Bytes(kDecodeStep);
#pragma unroll
  for (int n = 0; n < kCols / 16; ++n) {
    uint32_t b[4];
    LoadTransposed(address.At(values, n), b);
    MultiplyAdd<T>(state.out[2 * n], weights, b[0], b[1]);
    MultiplyAdd<T>(state.out[2 * n + 1], weights, b[2], b[3]);
  }
}

// The steps [begin, end) of the line through the warp's ring of stages: copies run kStages - 1
// steps ahead, across units, and the warp waits for no other. Calls done(part) after each unit's.
// One place for copies, since small code is what short contexts wait for.
template <typename T, int kCols, typename Done>
__device__ void AttendSteps(const DecodeWork& work, unsigned begin, unsigned end,
                            DecodeState<kCols>& state, const Done& done) {
  using Shape = DecodeShape<kCols>;
  StepCopier<T, kCols> copier(work, begin, end);
  DecodePart part;
  part.end_step = 0;
  int ahead = 0;    // steps under way
  int copy_to = 0;  // stage
  int stage = 0;
  int next = 0;  // step of the part
#pragma unroll 1
  for (unsigned step = begin; step < end;) {
    if (ahead == Shape::kStages - 1) {
      WaitForCopies<Shape::kStages - 2>();
      __syncwarp();  // of all lanes; and the stage of the step before is free
    }
    copier.CopyNext(copy_to);
    copy_to = copy_to == Shape::kStages - 1 ? 0 : copy_to + 1;
    if (ahead < Shape::kStages - 1) {
      ++ahead;
      continue;
    }
    if (next == part.end_step) {
      part = work.PartAt(step, end);
      next = part.first_step;
      StartUnit<T>(work.a, part, state);
    }
    AttendStep<T>(work.a, state, work.stages + stage * Shape::kStageBytes,
                  part.context - next * kDecodeStep);
    stage = stage == Shape::kStages - 1 ? 0 : stage + 1;
    ++step;
    if (++next == part.end_step) done(part);
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
                             const DecodePart& part, unsigned worker,
                             const DecodeState<kCols>& state) {
  const int lane = threadIdx.x % 32;
  const int64_t partial = int64_t{2} * worker + (part.first_step == 0 ? 1 : 0);
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

// One warp's share of a part that a whole block works on, in the warp's stages.
template <int kCols>
struct WarpShare {
  float sums[kUnitRows][kCols + 8];  // rows in different banks
  float2 stats[kUnitRows];
};

template <int kCols>
__device__ void StoreShare(const DecodeState<kCols>& state, WarpShare<kCols>& share) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    const float total = state.rows.Total(h);
    if (lane % 4 == 0) share.stats[row] = make_float2(state.rows.maximum[h], total);
#pragma unroll
    for (int n = 0; n < kCols / 8; ++n) {
      *reinterpret_cast<float2*>(&share.sums[row][n * 8 + lane % 4 * 2]) =
          make_float2(state.out[n][2 * h], state.out[n][2 * h + 1]);
    }
  }
}

// Merges the warps' shares in their order, into the output or the worker's partial.
template <typename T, int kCols>
__device__ void MergeShares(const DecodeWork& work, const DecodePart& part, unsigned worker,
                            const unsigned char* memory) {
  using Shape = DecodeShape<kCols>;
  const AttentionArguments& a = work.a;
  const int packs = a.head_size / 4;
  for (int i = threadIdx.x; i < part.rows * packs; i += Shape::kWarps * 32) {
    const int row = i / packs;
    const int column = i % packs * 4;
    const auto share = [&](int warp) {
      return reinterpret_cast<const WarpShare<kCols>*>(memory +
                                                       warp * Shape::kStages * Shape::kStageBytes);
    };
    float greatest = -INFINITY;
    for (int w = 0; w < Shape::kWarps; ++w) greatest = fmaxf(greatest, share(w)->stats[row].x);
    float total = 0;
    Pack<float, 4> sums = {};
    for (int w = 0; w < Shape::kWarps; ++w) {
      const float weight = Exp2(share(w)->stats[row].x - greatest);
      total += weight * share(w)->stats[row].y;
      for (int k = 0; k < 4; ++k) sums.element[k] += weight * share(w)->sums[row][column + k];
    }
    if (part.is_whole()) {
      Pack<T, 4> pack;
      for (int k = 0; k < 4; ++k) pack.element[k] = FromFloat<T>(sums.element[k] / total);
      T* out = static_cast<T*>(a.out) + part.sequence * a.out_stride;
      *reinterpret_cast<Pack<T, 4>*>(out + int64_t{part.first_head + row} * a.head_size + column) =
          pack;
      continue;
    }
    const int64_t index =
        (int64_t{2} * worker + (part.first_step == 0 ? 1 : 0)) * work.plan.unit_rows + row;
    *reinterpret_cast<Pack<float, 4>*>(work.plan.partial_sums + index * a.head_size + column) =
        sums;
    if (column == 0) work.plan.partial_stats[index] = make_float2(greatest, total);
  }
}

// Each warp takes an equal part of all steps, alone: reading the cache is what bounds decoding, so
// no warp may wait for another. Where there are so few units that each would be cut into many
// parts, a block's warps are one worker. The heads of a group are rows of one tensor-core tile, so
// that keys and values are read once.
template <typename T, int kCols>
__global__ void __launch_bounds__(DecodeShape<kCols>::kWarps * 32)
    DecodeKernel(const AttentionArguments a, const DecodePlan plan, bool together) {
  using Shape = DecodeShape<kCols>;
  extern __shared__ __align__(128) unsigned char memory[];
  ReleaseSuccessor();
  WaitForPredecessor();
  const SequenceTable sequences(memory + Shape::kStagesBytes, plan.count);
  LoadSequences<Shape::kWarps * 32>(a, plan.count, sequences);
  if (blockIdx.x == 0) {
    for (int s = threadIdx.x; s <= plan.count; s += blockDim.x) {
      plan.first_steps[s] = sequences.first_steps[s];
    }
  }
  const StepLine line(plan, sequences.first_steps[plan.count]);
  const unsigned warp = threadIdx.x / 32;
  const DecodeWork work = {a, plan, sequences,
                           SharedAddress(memory) + warp * Shape::kStages * Shape::kStageBytes};
  // Where there are fewer parts than warps, each is on an SM of its own.
  const unsigned worker = together ? blockIdx.x : warp * gridDim.x + blockIdx.x;
  if (worker >= line.workers) return;
  const unsigned end = line.FirstStepOf(worker + 1);
  DecodeState<kCols> state;
  for (unsigned step = line.FirstStepOf(worker); step < end;) {
    DecodePart part;
    unsigned begin = step;
    unsigned own_end = end;
    if (together) {
      part = work.PartAt(step, end);
      state.Reset();
      begin = step + part.num_steps() * warp / Shape::kWarps;
      own_end = step + part.num_steps() * (warp + 1) / Shape::kWarps;
    }
    AttendSteps<T>(work, begin, own_end, state, [&](const DecodePart& done) {
      if (together) return;
      if (done.is_whole()) {
        StoreUnit<T>(a, done, state);
      } else {
        StorePartial(a, plan, done, worker, state);
      }
    });
    if (!together) return;
    __syncwarp();
    StoreShare(state, *reinterpret_cast<WarpShare<kCols>*>(memory + warp * Shape::kStages *
                                                                        Shape::kStageBytes));
    __syncthreads();
    MergeShares<T, kCols>(work, part, worker, memory);
    __syncthreads();
    step += part.num_steps();
  }
}

DecodePlan MakePlan(const AttentionArguments& a, int32_t count) {
  DecodePlan plan = {};
  plan.count = count;
  plan.units_per_kv_head = (a.group + kUnitRows - 1) / kUnitRows;
  plan.units = a.kv_heads * plan.units_per_kv_head;
  plan.unit_rows = std::min(a.group, kUnitRows);
  return plan;
}

void PlaceInWorkspace(const AttentionArguments& a, const CudaStream& stream, DecodePlan& plan) {
  const int64_t rows = int64_t{2} * plan.workers * plan.unit_rows;
  plan.partial_sums = static_cast<float*>(stream.workspace());
  plan.partial_stats = reinterpret_cast<float2*>(plan.partial_sums + rows * a.head_size);
  plan.first_steps = reinterpret_cast<int32_t*>(plan.partial_stats + rows);
  const int64_t bytes = rows * (a.head_size * 4 + 8) + (plan.count + 1) * 4;
  CARAVAN_CHECK(bytes <= stream.workspace_bytes(), "attention needs ", bytes,
                " bytes of workspace, not ", stream.workspace_bytes());
}

template <typename T>
constexpr DType kDType = std::is_same_v<T, __half> ? DType::kFloat16 : DType::kBFloat16;

template <typename T, int kCols>
void LaunchSlice(const AttentionArguments& a, int32_t count, int64_t max_context,
                 CudaStream& stream) {
  using Shape = DecodeShape<kCols>;
  DecodePlan plan = MakePlan(a, count);
  const int64_t units = int64_t{count} * plan.units;
  const int per_sm = stream.device().compute_capability == 90 ? 2 : 1;
  const int64_t most_steps = units * ((max_context + kDecodeStep - 1) / kDecodeStep);
  const int blocks = static_cast<int>(std::max<int64_t>(
      1, std::min<int64_t>(most_steps, int64_t{stream.device().num_multiprocessors} * per_sm)));
  const bool together = units * 4 < int64_t{blocks} * Shape::kWarps;
  plan.workers = together ? blocks : blocks * Shape::kWarps;
  // Merging costs more than what a second step in each warp does.
  plan.least_steps = together ? 2 * Shape::kWarps : 1;
  PlaceInWorkspace(a, stream, plan);
  const int shared = Shape::kStagesBytes + SequencesBytes(count);
  CARAVAN_CUDA_CHECK(cudaFuncSetAttribute(DecodeKernel<T, kCols>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  LaunchDependent(DecodeKernel<T, kCols>,
                  {.grid = dim3(static_cast<unsigned>(blocks)),
                   .threads = Shape::kWarps * 32,
                   .shared_bytes = static_cast<size_t>(shared)},
                  stream, a, plan, together);
  LaunchDecodeMerge(a, plan, kDType<T>, stream);
}

template <typename T>
void LaunchSlice(const AttentionArguments& a, int32_t count, int64_t max_context,
                 CudaStream& stream) {
  if (a.head_size <= 64) {
    LaunchSlice<T, 64>(a, count, max_context, stream);
  } else if (a.head_size <= 96) {
    LaunchSlice<T, 96>(a, count, max_context, stream);
  } else if (a.head_size <= 128) {
    LaunchSlice<T, 128>(a, count, max_context, stream);
  } else {
    LaunchSlice<T, 256>(a, count, max_context, stream);
  }
}

// The sequences from `first` on.
AttentionArguments SliceFrom(const AttentionArguments& a, int32_t first) {
  AttentionArguments slice = a;
  slice.q = static_cast<const char*>(a.q) + first * a.q_stride * 2;
  slice.out = static_cast<char*>(a.out) + first * a.out_stride * 2;
  slice.context_lengths += first;
  if (a.table_rows == nullptr) {
    slice.block_tables += first * a.block_table_stride;
  } else {
    slice.table_rows += first;
  }
  return slice;
}

}  // namespace

void LaunchDecodeAttention(const AttentionArguments& arguments, DType dtype, int32_t count,
                           int64_t max_context, CudaStream& stream) {
  const int32_t most =
      stream.device().compute_capability == 90 ? kMostSequencesHopper : kMostSequences;
  for (int32_t first = 0; first < count; first += most) {
    const AttentionArguments slice = SliceFrom(arguments, first);
    const int32_t n = std::min(most, count - first);
    if (dtype == DType::kFloat16) {
      LaunchSlice<__half>(slice, n, max_context, stream);
    } else {
      LaunchSlice<__nv_bfloat16>(slice, n, max_context, stream);
    }
  }
}

}  // namespace caravan::cuda
