#include "kernels/attention/paged_decode.cuh"
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

// The warp's share of the partials, every so many-th, in ascending order.
__device__ MergedRow SumPartials(const Partials& partials, int head_size) {
  const int column = threadIdx.x % 32 * kMergeColumns;
  const int warps = blockDim.x / 32;
  const float greatest = GreatestOf(partials);
  MergedRow result = {};
#pragma unroll 4
  for (int i = threadIdx.x / 32; i < partials.count; i += warps) {
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
  const unsigned begin = static_cast<unsigned>(first) * plan.units + unit * steps;
  const unsigned first_worker = line.WorkerOf(begin);
  const unsigned last_worker = line.WorkerOf(begin + steps - 1);
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

}  // namespace

void LaunchDecodeMerge(const AttentionArguments& arguments, const DecodePlan& plan, DType dtype,
                       CudaStream& stream) {
  // About as many partials a unit as there are workers for it.
  const int64_t partials = plan.workers / (int64_t{plan.count} * plan.units) + 1;
  const int warps = partials > 8 ? kMergeWarps : partials > 4 ? 2 : 1;
  const LaunchShape shape = {.grid = dim3(static_cast<unsigned>(plan.units * plan.unit_rows),
                                          static_cast<unsigned>(plan.count)),
                             .threads = 32 * warps,
                             .shared_bytes = warps * 32 * sizeof(MergedRow)};
  if (dtype == DType::kFloat16) {
    LaunchDependent(MergeKernel<__half>, shape, stream, arguments, plan);
  } else {
    LaunchDependent(MergeKernel<__nv_bfloat16>, shape, stream, arguments, plan);
  }
}

}  // namespace caravan::cuda
