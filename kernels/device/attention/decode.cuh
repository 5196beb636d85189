// How decode attention is cut into parts: shared by the kernel that computes them and the one that
// merges them.
#pragma once

#include "kernels/device/attention/arguments.cuh"

namespace caravan::cuda {

constexpr int kDecodeStep = 16;  // positions that a warp handles at once
constexpr int kUnitRows = 16;    // query heads that it does so for, at most

// A unit that has to be merged, in the place of the worker that has its first part. The next
// workers have the others.
struct alignas(16) CutUnit {
  int sequence;  // -1: no such unit
  int first_head;
  int rows;
  int partials;
};

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
  CutUnit* cuts;          // [workers]
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

  // `first_steps`: SequenceTable's.
  __device__ StepLine(const DecodePlan& plan, const int* first_steps)
      : steps(static_cast<unsigned>(first_steps[plan.count]) * plan.units),
        workers(min(static_cast<unsigned>(plan.workers),
                    (steps + plan.least_steps - 1) / plan.least_steps)) {
    workers = max(workers, 1u);
    // Sequences of one length: each worker takes whole units where that lasts a sixteenth longer at
    // most, since then nothing is left to merge.
    const unsigned units = static_cast<unsigned>(plan.count) * plan.units;
    const unsigned each = (units + workers - 1) / workers;
    if (first_steps[plan.count] == plan.count * first_steps[1] &&
        16 * (each * workers - units) <= units) {
      workers = (units + each - 1) / each;
    }
    least = steps / workers;
    longer = steps - least * workers;
  }
  __device__ unsigned FirstStepOf(unsigned worker) const {
    return worker * least + min(worker, longer);
  }
  __device__ unsigned WorkerOf(unsigned step) const {
    const unsigned before = longer * (least + 1);
    return step < before ? step / (least + 1) : longer + (step - before) / least;
  }
};

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
  const StepLine& line;
  unsigned worker;
  unsigned end;     // of the worker's steps
  uint32_t stages;  // the warp's ring of stages in shared memory

  // The number of the worker's partial that a part is, which is not its whole unit. One thread of
  // the worker also calls RecordCut for it.
  __device__ int64_t PartialOf(const DecodePart& part) const {
    return int64_t{2} * worker + (part.first_step == 0 ? 1 : 0);
  }
  __device__ void RecordCut(const DecodePart& part) const {
    if (part.first_step != 0) return;  // another worker has recorded the unit
    const unsigned last_step = end + (part.steps - part.end_step) - 1;
    plan.cuts[worker] = {part.sequence, part.first_head, part.rows,
                         static_cast<int>(line.WorkerOf(last_step) - worker) + 1};
  }

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

// Merges the units that were cut, after the parts have been stored.
void LaunchDecodeMerge(const AttentionArguments& arguments, const DecodePlan& plan, DType dtype,
                       CudaStream& stream);

}  // namespace caravan::cuda
