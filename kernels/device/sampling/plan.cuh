// What a call of Sample does for each row, and what a row's blocks hand over to the last one.
#pragma once

#include <cstdint>

#include "kernels/device/sampling/draw.cuh"
#include "kernels/device/sampling/row_logits.cuh"
#include "kernels/sampling.h"

namespace caravan::cuda {

constexpr int kSampleThreads = 256;  // of a block
constexpr int kSampleGroups = 4;
using SlicePart = Part<kSampleThreads, kSampleGroups>;
constexpr int32_t kSliceIds = SlicePart::kIds;  // ids of a block's slice
constexpr int kMostItems = kSliceIds;           // entries of the slices' lists of a row
// Longest list of a slice's greatest logits: a top_k up to it needs no second look at the row. In
// other rows with a filter, the kept tokens mostly are among the first kNucleusList of each slice.
constexpr int kMostListed = 128;
constexpr int kNucleusList = 64;

// Of one slice of a row, ids [kSliceIds · i, kSliceIds · (i + 1)): its greatest logit and the sum
// of e^(logit - that one).
struct SliceSum {
  Best best;
  float sum;
};
struct SlicePartial {
  SliceSum raw;        // set where the plan has raw_sums
  SliceSum processed;  // always set; of what the plan has no use for, kNoBest and 0
  Candidate drawn;
};

struct SampleArguments {
  LogitRows logits;
  const SamplingRow* rows;
  SamplingOutput* outputs;
  int32_t slices;          // of a row
  int32_t list_capacity;   // entries for each slice in `lists`
  SlicePartial* partials;  // [rows, slices]
  TokenLogprob* lists;  // [rows, slices, list_capacity] logits, greatest first; the entries behind
                        // a slice's last possible one are kImpossible
  TokenLogprob* raw_lists;  // [rows, slices, kMaxTopLogprobs]
  uint32_t* arrivals;       // [rows], see CudaStream

  __device__ TokenLogprob* ListOf(int64_t row, int slice) const {
    return lists + (row * slices + slice) * list_capacity;
  }
  __device__ TokenLogprob* RawListOf(int64_t row, int slice) const {
    return raw_lists + (row * slices + slice) * kMaxTopLogprobs;
  }
};

// What a row needs; the same for all its blocks.
struct RowPlan {
  float temperature;  // 1 where greedy
  bool greedy;
  bool filters;
  bool short_top_k;  // draws among the merged lists alone, else among all tokens
  bool sums;         // of the processed logits
  bool raw_sums;     // of the model's own
  int32_t top_k;     // 0: all
  int32_t listed;    // greatest processed logits that are wanted of each slice
  int32_t raw_listed;

  __device__ RowPlan(const SamplingRow& row, const SampleArguments& arguments) {
    greedy = !(row.temperature >= kLeastTemperature);
    temperature = greedy ? 1 : row.temperature;
    top_k = row.top_k > 0 && row.top_k < arguments.logits.vocab ? row.top_k : 0;
    filters = !greedy && (top_k > 0 || row.top_p < 1 || row.min_p > 0);
    short_top_k = filters && top_k > 0 && top_k <= arguments.list_capacity;
    const bool processed = row.num_logprobs >= 0 && row.processed_logprobs;
    raw_sums = row.num_logprobs >= 0 && !row.processed_logprobs;
    sums = processed || (filters && row.top_p < 1 && top_k == 0);
    const int32_t wanted = max(min(row.num_logprobs, kMaxTopLogprobs), 0);
    raw_listed = raw_sums ? wanted : 0;
    listed = processed ? wanted : 0;
    if (filters) {
      listed = max(listed, short_top_k ? top_k : min(kNucleusList, arguments.list_capacity));
    }
  }

  __device__ bool has_lists() const { return listed > 0 || raw_listed > 0; }
  __device__ bool draws_from_all() const { return !greedy && !short_top_k; }
  __device__ bool wants_best() const { return greedy || filters || sums; }
  // Whether quotients by the temperature are needed of all logits, else of the best draws alone.
  __device__ bool divides() const { return sums || listed > 0; }
};

}  // namespace caravan::cuda
