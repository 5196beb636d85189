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

// A block per worker, for the unit that is first cut there, and for every gridDim.y-th of its rows.
// Lanes share the head; warps have a row each, or share the partials of one where these are many.
// Most units of a large batch are whole, and are stored already.
template <typename T>
__global__ void __launch_bounds__(32 * kMergeWarps)
    MergeKernel(const AttentionArguments a, const DecodePlan plan) {
  __shared__ MergedRow shares[32 * kMergeWarps];
  ReleaseSuccessor();
  WaitForPredecessor();
  const CutUnit unit = plan.cuts[blockIdx.x];
  if (unit.sequence < 0) return;
  const int warp = threadIdx.x / 32;
  if (unit.partials <= 8) {
    for (int row = blockIdx.y + warp * gridDim.y; row < unit.rows; row += kMergeWarps * gridDim.y) {
      const Partials partials = {plan, blockIdx.x, unit.partials, row};
      StoreRow<T>(a, unit, row, SumPartials(partials, {0, 1}, a.head_size));
    }
    return;
  }
  for (int row = blockIdx.y; row < unit.rows; row += gridDim.y) {
    const Partials partials = {plan, blockIdx.x, unit.partials, row};
    shares[threadIdx.x] = SumPartials(partials, {warp, kMergeWarps}, a.head_size);
    __syncthreads();
    if (warp == 0) {
      MergedRow merged = shares[threadIdx.x];
      for (int w = 1; w < kMergeWarps; ++w) merged.Add(shares[w * 32 + threadIdx.x]);
      StoreRow<T>(a, unit, row, merged);
    }
    __syncthreads();
  }
}

}  // namespace

void LaunchDecodeMerge(const AttentionArguments& arguments, const DecodePlan& plan, DType dtype,
                       CudaStream& stream) {
  // Few units have many partials: then each row has a block of its own.
  const bool many = plan.workers > int64_t{8} * plan.count * plan.units;
  const LaunchShape shape = {.grid = dim3(static_cast<unsigned>(plan.workers),
                                          static_cast<unsigned>(many ? plan.unit_rows : 1)),
                             .threads = 32 * kMergeWarps};
  if (dtype == DType::kFloat16) {
    LaunchDependent(MergeKernel<__half>, shape, stream, arguments, plan);
  } else {
    LaunchDependent(MergeKernel<__nv_bfloat16>, shape, stream, arguments, plan);
  }
}

}  // namespace caravan::cuda
