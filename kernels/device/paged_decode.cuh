// How decode attention is cut into parts: shared by the kernel that computes them and the one that
// merges them.
#pragma once

#include "kernels/device/paged_attention.cuh"

namespace caravan::cuda {

constexpr int kDecodeStep = 16;  // positions that a warp handles at once
constexpr int kUnitRows = 16;    // query heads that it does so for, at most

// A unit is up to kUnitRows query heads of one KV head of one sequence. A worker is a warp, or all
// warps of a block where units are few. Memory of one part of a unit's positions: `unit_rows`
// unscaled sums of head_size floats, and as many (maximum, sum of weights).
struct DecodePlan {
  int32_t count;  // sequences
  int32_t units;  // of each sequence
  int32_t units_per_kv_head;
  int32_t unit_rows;      // most rows of a unit
  int32_t workers;        // of the grid
  int32_t least_steps;    // of a worker
  int32_t* first_steps;   // [count + 1] of each sequence, in steps of one unit
  float* partial_sums;    // [2 · workers, unit_rows, head_size]
  float2* partial_stats;  // [2 · workers, unit_rows]
};

// The line of all units' steps, and its parts: workers [0, longer) have one step more than the
// others. A part that holds a unit's first step but not all is its worker's partial 1, a part that
// goes on with another worker's unit is partial 0.
struct StepLine {
  unsigned steps;
  unsigned workers;
  unsigned least;  // steps of a worker
  unsigned longer;

  __device__ StepLine(const DecodePlan& plan, int steps_of_a_unit)
      : steps(static_cast<unsigned>(steps_of_a_unit) * plan.units),
        workers(min(static_cast<unsigned>(plan.workers),
                    (steps + plan.least_steps - 1) / plan.least_steps)),
        least(steps / max(workers, 1u)),
        longer(steps - least * workers) {}
  __device__ unsigned FirstStepOf(unsigned worker) const {
    return worker * least + min(worker, longer);
  }
  __device__ unsigned WorkerOf(unsigned step) const {
    const unsigned before = longer * (least + 1);
    return step < before ? step / (least + 1) : longer + (step - before) / least;
  }
};

// Merges the units that were cut, after the parts have been stored.
void LaunchDecodeMerge(const AttentionArguments& arguments, const DecodePlan& plan, DType dtype,
                       CudaStream& stream);

}  // namespace caravan::cuda
