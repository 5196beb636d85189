// Decode attention with split KV: the steps of all sequences and KV heads are one line, cut into
// equal parts for the warps of the whole GPU, so that it is busy whatever the batch. A second
// kernel merges the units that were cut.
#include <algorithm>
#include <type_traits>

#include "kernels/device/attention/decode.cuh"
#include "kernels/device/attention/decode_steps.cuh"
#include "kernels/device/cuda_check.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"

namespace caravan::cuda {
namespace {

// Sequences of one launch at most: what is known of them lies in shared memory too.
constexpr int kMostSequences = 224;         // within the 99 KiB of sm_86
constexpr int kMostSequencesHopper = 1024;  // twice within 227 KiB
constexpr int SequencesBytes(int count) { return (3 * count + 1) * 4; }

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
__device__ void StorePartial(const DecodeWork& work, const DecodePart& part,
                             const DecodeState<kCols>& state) {
  const AttentionArguments& a = work.a;
  const DecodePlan& plan = work.plan;
  const int lane = threadIdx.x % 32;
  if (lane == 0) work.RecordCut(part);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    const float total = state.rows.Total(h);
    if (row >= part.rows) continue;
    const int64_t index = work.PartialOf(part) * plan.unit_rows + row;
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
__device__ void MergeShares(const DecodeWork& work, const DecodePart& part,
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
    const int64_t index = work.PartialOf(part) * work.plan.unit_rows + row;
    *reinterpret_cast<Pack<float, 4>*>(work.plan.partial_sums + index * a.head_size + column) =
        sums;
    if (column == 0) work.plan.partial_stats[index] = make_float2(greatest, total);
    if (i == 0) work.RecordCut(part);
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
  const StepLine line(plan, sequences.first_steps);
  const unsigned warp = threadIdx.x / 32;
  // Where there are fewer parts than warps, each is on an SM of its own.
  const unsigned worker = together ? blockIdx.x : warp * gridDim.x + blockIdx.x;
  if (threadIdx.x % (together ? Shape::kWarps * 32 : 32) == 0) plan.cuts[worker].sequence = -1;
  if (worker >= line.workers) return;
  const unsigned end = line.FirstStepOf(worker + 1);
  const DecodeWork work = {a,
                           plan,
                           sequences,
                           line,
                           worker,
                           end,
                           SharedAddress(memory) + warp * Shape::kStages * Shape::kStageBytes};
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
        StorePartial(work, done, state);
      }
    });
    if (!together) return;
    __syncwarp();
    StoreShare(state, *reinterpret_cast<WarpShare<kCols>*>(memory + warp * Shape::kStages *
                                                                        Shape::kStageBytes));
    __syncthreads();
    MergeShares<T, kCols>(work, part, memory);
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
  plan.cuts = reinterpret_cast<CutUnit*>(plan.partial_stats + rows);  // rows are even
  const int64_t bytes =
      rows * (a.head_size * 4 + 8) + plan.workers * static_cast<int64_t>(sizeof(CutUnit));
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
  const bool together = units * 24 < int64_t{blocks} * Shape::kWarps;
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
