// What a call of Sample does for each row, and what its two kernels hand over in between.
#pragma once

#include <cstdint>

#include "kernels/device/sampling/draw.cuh"
#include "kernels/device/sampling/row_logits.cuh"
#include "kernels/sampling.h"

namespace caravan::cuda {

constexpr int kScanThreads = 256;
constexpr int kScanGroups = 4;
constexpr int32_t kSliceIds = Part<kScanThreads, kScanGroups>::kIds;  // ids of a block's slice
constexpr int kFinishThreads = 1024;
constexpr int kFinishItems = 4;  // a thread's entries of the slices' lists
// Longest list of the greatest logits: a top_k up to it needs no second look at the row. In other
// rows with a filter, the kept tokens mostly are among the first kNucleusList.
constexpr int kMostListed = 128;
constexpr int kNucleusList = 64;

// The greatest logit and the lowest id that has it.
struct Best {
  float value;
  int32_t id;
};
constexpr Best kNoBest = {kImpossible, INT32_MAX};

struct BetterBest {
  __device__ Best operator()(const Best& a, const Best& b) const {
    if (a.value != b.value) return a.value > b.value ? a : b;
    return a.id < b.id ? a : b;
  }
};

// One slice of a row: ids [kSliceIds · i, kSliceIds · (i + 1)). Sums are of e^(logit - the slice's
// greatest one).
struct SlicePartial {
  float raw_max;
  float raw_sum;
  Best best;
  float sum;
  Drawn drawn;
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

  __device__ TokenLogprob* ListOf(int64_t row, int slice) const {
    return lists + (row * slices + slice) * list_capacity;
  }
  __device__ TokenLogprob* RawListOf(int64_t row, int slice) const {
    return raw_lists + (row * slices + slice) * kMaxTopLogprobs;
  }
};

// What a row needs; the same for both kernels.
struct RowPlan {
  float temperature;  // 1 where greedy
  bool greedy;
  int32_t top_k;  // 0: all
  bool filters;
  bool draws;      // among all tokens; a row with a short top_k draws from its list alone
  bool sums;       // of the processed logits
  bool raw_sums;   // of the model's own
  int32_t listed;  // greatest processed logits that are wanted of each slice
  int32_t raw_listed;

  __device__ RowPlan(const SamplingRow& row, const SampleArguments& arguments) {
    greedy = !(row.temperature >= kLeastTemperature);
    temperature = greedy ? 1 : row.temperature;
    top_k = row.top_k > 0 && row.top_k < arguments.logits.vocab ? row.top_k : 0;
    filters = !greedy && (top_k > 0 || row.top_p < 1 || row.min_p > 0);
    const bool short_top_k = top_k > 0 && top_k <= arguments.list_capacity;
    draws = !greedy && !(filters && short_top_k);
    const bool processed = row.num_logprobs >= 0 && row.processed_logprobs;
    raw_sums = row.num_logprobs >= 0 && !row.processed_logprobs;
    sums = processed || (filters && row.top_p < 1 && top_k == 0);
    const int32_t wanted = min(row.num_logprobs, kMaxTopLogprobs);
    raw_listed = raw_sums ? max(wanted, 0) : 0;
    listed = processed ? max(wanted, 0) : 0;
    if (filters) {
      listed = max(listed, short_top_k ? top_k : min(kNucleusList, arguments.list_capacity));
    }
  }
};

}  // namespace caravan::cuda
