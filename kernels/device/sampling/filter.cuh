// The draw among the tokens that top_k, top_p and min_p keep. These are always the first ones in
// the order by logit (ties by lower id); whether a token is kept follows from how many are before
// it and what they weigh. A weight is e^(logit - the row's greatest one).
#pragma once

#include <cstdint>

#include "kernels/device/sampling/block_reduce.cuh"
#include "kernels/device/sampling/draw.cuh"
#include "kernels/device/sampling/plan.cuh"
#include "kernels/device/sampling/row_logits.cuh"

namespace caravan::cuda {

// The first tokens of a row, in shared memory.
struct RowList {
  float logits[kMostListed];
  int32_t ids[kMostListed];
};

// How a row is filtered.
struct Filter {
  int32_t top_k;  // 0: all
  float top_p;
  float min_p;
  float max;     // the row's greatest logit
  double total;  // weight of all tokens that top_k keeps; used where top_p < 1

  __device__ float Weight(float logit) const { return expf(logit - max); }
  __device__ bool Keeps(float logit, int64_t before, double weight_before) const {
    return (top_k == 0 || before < top_k) &&
           (top_p >= 1 || weight_before < double{top_p} * total) && Weight(logit) >= min_p;
  }
};

// How many of the first `n` tokens of the row are kept; -1 if tokens behind them might be too.
// `is_all`: there are no others. All threads call it; the first warp does the work.
__device__ inline int CountKept(const Filter& filter, const RowList& list, int n, bool is_all) {
  constexpr int kEach = kMostListed / 32;
  __shared__ int result;
  if (threadIdx.x < 32) {
    const int begin = static_cast<int>(threadIdx.x) * kEach;
    float weights[kEach];
    double sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      weights[i] = begin + i < n ? filter.Weight(list.logits[begin + i]) : 0;
      sum += weights[i];
    }
    double before = sum;  // inclusive over the lanes, then exclusive
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const double other = __shfl_up_sync(0xffffffffu, before, offset);
      if (static_cast<int>(threadIdx.x) >= offset) before += other;
    }
    before -= sum;
    int kept = 0;  // tokens up to the last kept one
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (begin + i < n && filter.Keeps(list.logits[begin + i], begin + i, before)) {
        kept = begin + i + 1;
      }
      before += weights[i];
    }
    kept = __reduce_max_sync(0xffffffffu, kept);
    if (threadIdx.x == 0) result = kept < n || is_all || n == filter.top_k ? kept : -1;
  }
  __syncthreads();
  const int kept = result;
  __syncthreads();
  return kept;
}

template <int kThreads>
__device__ Drawn DrawFromList(const SamplingRow& row, const RowList& list, int n) {
  Drawn drawn = kNoDraw;
  const int i = static_cast<int>(threadIdx.x);
  if (i < n) {
    const PhiloxWords words = DrawKey(row).Words(list.ids[i]);
    drawn = {list.logits[i], list.ids[i], Gumbel(words.word[list.ids[i] % 4])};
  }
  return ReduceBlock<kThreads>(drawn, kNoDraw, BetterDraw());
}

// Calls body(part) for each part of a row of processed logits. All threads call it.
template <int kThreads, int kGroups, typename Body>
__device__ void ForEachPart(const SampleArguments& arguments, int64_t r, float temperature,
                            float* buffer, const Body& body) {
  using RowPart = Part<kThreads, kGroups>;
  for (int32_t begin = 0; begin < arguments.logits.vocab; begin += RowPart::kIds) {
    RowPart part;
    part.begin = begin;
    part.Load(arguments.logits, arguments.logits.row(r));
    part.Process(arguments.rows[r], temperature, buffer);
    body(part);
  }
}

// The weight of the top_k first tokens: digit by digit, finds the key of the last one.
template <int kThreads, int kGroups>
__device__ double WeighTopK(const SampleArguments& arguments, int64_t r, float temperature,
                            const Filter& filter, float* buffer) {
  __shared__ int counts[256];
  __shared__ int chosen;
  uint32_t prefix = 0;           // the digits found so far
  int remaining = filter.top_k;  // of the tokens that have these digits
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = static_cast<int>(threadIdx.x); i < 256; i += kThreads) counts[i] = 0;
    __syncthreads();
    ForEachPart<kThreads, kGroups>(arguments, r, temperature, buffer, [&](const auto& part) {
      for (const float value : part.values) {
        const uint32_t key = KeyOf(value);
        if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) {
          atomicAdd(&counts[key >> shift & 255], 1);
        }
      }
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255;
      int left = remaining;
      while (digit > 0 && counts[digit] < left) left -= counts[digit--];
      chosen = digit;
      counts[0] = left;
    }
    __syncthreads();
    prefix |= static_cast<uint32_t>(chosen) << shift;
    remaining = counts[0];
    __syncthreads();
  }
  double sum = 0;
  ForEachPart<kThreads, kGroups>(arguments, r, temperature, buffer, [&](const auto& part) {
    for (const float value : part.values) {
      if (KeyOf(value) > prefix) sum += filter.Weight(value);
    }
  });
  return ReduceBlock<kThreads>(sum, 0.0, Sum()) +
         remaining * double{filter.Weight(FloatOf(prefix))};
}

// The draw among the kept tokens, given the draw among all: while that is not a kept one, the kept
// ones are all before it, so the draw is repeated among those. A round reads the row once; the
// number of rounds is about 1 + log(1 / p) where p is the probability of the kept tokens.
template <int kThreads, int kGroups>
__device__ Drawn DrawByRejection(const SampleArguments& arguments, int64_t r, const RowPlan& plan,
                                 const Filter& filter, Drawn drawn, float* buffer) {
  const SamplingRow& row = arguments.rows[r];
  while (true) {
    int count = 0;
    double weight = 0;
    DrawScan scan(row);
    ForEachPart<kThreads, kGroups>(arguments, r, plan.temperature, buffer, [&](const auto& part) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        float before[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float value = part.values[4 * g + c];
          const bool is_before =
              value > drawn.logit || (value == drawn.logit && part.IdOf(4 * g + c) < drawn.id);
          before[c] = is_before ? value : kImpossible;
          if (!is_before) continue;
          ++count;
          weight += filter.Weight(value);
        }
        scan.OfferFour(before, part.GroupId(g));
      }
      scan.Share();
    });
    count = ReduceBlock<kThreads>(count, 0, Sum());
    weight = ReduceBlock<kThreads>(weight, 0.0, Sum());
    if (filter.Keeps(drawn.logit, count, weight) || count == 0) return drawn;
    drawn = scan.template Finish<kThreads>();
  }
}

}  // namespace caravan::cuda
