#include "kernels/device/attention/decode.cuh"
#include "kernels/device/cuda_check.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {
namespace {

// The partials [first, first + count) of one unit: the first is its worker's partial 1, the others
// are partial 0.
struct Partials {
  const DecodePlan& plan;
  unsigned first_worker;
  int count;
  int row;

  __device__ int IndexOf(int i) const {
    return (2 * (static_cast<int>(first_worker) + i) + (i == 0 ? 1 : 0)) * plan.unit_rows + row;
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

// Every `step`th partial from `first` on, in ascending order.
struct Share {
  int first;
  int step;
};
__device__ MergedRow SumPartials(const Partials& partials, const Share& share, int head_size) {
  const int column = threadIdx.x % 32 * kMergeColumns;
  const float greatest = GreatestOf(partials);
  MergedRow result = {};
#pragma unroll 4
  for (int i = share.first; i < partials.count; i += share.step) {
    const int index = partials.IndexOf(i);
    const float2 stats = partials.plan.partial_stats[index];
    const float weight = Exp2(stats.x - greatest);
    const float* sums = partials.plan.partial_sums + int64_t{index} * head_size;
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

template <typename T>
__device__ void StoreRow(const AttentionArguments& a, const CutUnit& unit, int row,
                         const MergedRow& merged) {
  T* out = static_cast<T*>(a.out) + unit.sequence * a.out_stride +
           int64_t{unit.first_head + row} * a.head_size;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const int column = static_cast<int>(threadIdx.x) % 32 * kMergeColumns + c * 128;
    if (column >= a.head_size) continue;
    Pack<T, kMergeColumns> pack;
    for (int k = 0; k < kMergeColumns; ++k) {
      pack.element[k] = FromFloat<T>(merged.values[c][k] / merged.sum);
    }
    *reinterpret_cast<Pack<T, kMergeColumns>*>(out + column) = pack;
  }
}

// All warps share the partials of one row. `shares` is free afterwards.
template <typename T>
__device__ void MergeTogether(const AttentionArguments& a, const CutUnit& unit,
                              const Partials& partials, MergedRow* shares) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  shares[threadIdx.x] = SumPartials(partials, {warp, kMergeWarps}, a.head_size);
  __syncthreads();
  if (warp == 0) {
    MergedRow merged = shares[threadIdx.x];
    for (int w = 1; w < kMergeWarps; ++w) merged.Add(shares[w * 32 + threadIdx.x]);
    StoreRow<T>(a, unit, partials.row, merged);
  }
  __syncthreads();
}

constexpr int kFewPartials = 8;  // which a warp merges by itself

// `kRows` rows a block, of the units that are first cut at their workers: a warp for each, or all
// warps for one after the other where its partials are many. Most units of a large batch are whole,
// and are stored already; what is left fits on the GPU at once, so that the next kernel can start.
template <typename T, int kRows>
__global__ void __launch_bounds__(32 * kMergeWarps)
    MergeKernel(const AttentionArguments a, const DecodePlan plan) {
  __shared__ MergedRow shares[32 * kMergeWarps];
  ReleaseSuccessor();
  WaitForPredecessor();
  const auto merge = [&](unsigned index, bool few) {
    const unsigned worker = index / plan.unit_rows;
    if (worker >= static_cast<unsigned>(plan.workers)) return;
    const CutUnit unit = plan.cuts[worker];
    const Partials partials = {plan, worker, unit.partials,
                               static_cast<int>(index % plan.unit_rows)};
    if (unit.sequence < 0 || partials.row >= unit.rows) return;
    if (few != (unit.partials <= kFewPartials)) return;
    if (few) {
      StoreRow<T>(a, unit, partials.row, SumPartials(partials, {0, 1}, a.head_size));
    } else {
      MergeTogether<T>(a, unit, partials, shares);
    }
  };
  const unsigned warp = threadIdx.x / 32;
  if (warp < kRows) merge(blockIdx.x * kRows + warp, true);
#pragma unroll 1
  for (unsigned i = 0; i < kRows; ++i) merge(blockIdx.x * kRows + i, false);
}

template <typename T, int kRows>
void Launch(const AttentionArguments& arguments, const DecodePlan& plan, CudaStream& stream) {
  const int64_t rows = int64_t{plan.workers} * plan.unit_rows;
  LaunchDependent(MergeKernel<T, kRows>,
                  {.grid = dim3(static_cast<unsigned>((rows + kRows - 1) / kRows)),
                   .threads = 32 * kMergeWarps},
                  stream, arguments, plan);
}

template <typename T>
void Launch(const AttentionArguments& arguments, const DecodePlan& plan, CudaStream& stream) {
  // Few units have many partials: then each row has a block of its own.
  if (plan.workers > int64_t{kFewPartials} * plan.count * plan.units) {
    Launch<T, 1>(arguments, plan, stream);
  } else {
    Launch<T, kMergeWarps>(arguments, plan, stream);
  }
}

}  // namespace

void LaunchDecodeMerge(const AttentionArguments& arguments, const DecodePlan& plan, DType dtype,
                       CudaStream& stream) {
  if (dtype == DType::kFloat16) {
    Launch<__half>(arguments, plan, stream);
  } else {
    Launch<__nv_bfloat16>(arguments, plan, stream);
  }
}

}  // namespace caravan::cuda
