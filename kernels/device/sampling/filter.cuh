// The draw among the tokens that top_k, top_p and min_p keep. These are always the first ones in
// the order by logit (ties by lower id); whether a token is kept follows from how many are before
// it and what they weigh. A weight is e^(logit - the row's greatest one).
//
// Given the draw among all tokens: if it is a kept one it is the draw among the kept ones. Else the
// kept ones are all before it, so the draw is repeated among those before it. The number of rounds
// is about 1 + log(1 / p) where p is the probability of the kept tokens.
#pragma once

#include <cstdint>

#include "kernels/device/sampling/block_reduce.cuh"
#include "kernels/device/sampling/draw.cuh"
#include "kernels/device/sampling/plan.cuh"
#include "kernels/device/sampling/row_logits.cuh"

namespace caravan::cuda {

__device__ inline float WeightOf(float logit, float max) { return expf(logit - max); }

// How a row is filtered.
struct Filter {
  int32_t top_k;  // 0: all
  float top_p;
  float min_p;
  float max;     // the row's greatest logit
  double total;  // weight of all tokens that top_k keeps; used where top_p < 1

  __device__ float Weight(float logit) const { return WeightOf(logit, max); }
  __device__ bool Keeps(float logit, int before, double weight_before) const {
    return (top_k == 0 || before < top_k) &&
           (top_p >= 1 || before == 0 || weight_before < double{top_p} * total) &&
           Weight(logit) >= min_p;
  }
};

// The entries of a row's lists, in shared memory; each thread reads those that it has put there.
// What a thread has beyond them is kImpossible.
class RowItems {
 public:
  static constexpr size_t kBytes = kMostItems * (sizeof(float) + sizeof(int32_t));
  // REQUIRES: kBytes of memory, `num` ≤ kMostItems.
  __device__ RowItems(float* memory, int num)
      : logits_(memory + threadIdx.x),
        ids_(reinterpret_cast<int32_t*>(memory) + kMostItems + threadIdx.x),
        each_((num + kSampleThreads - 1) / kSampleThreads) {}

  // Of this thread; the same for all.
  __device__ int each() const { return each_; }
  __device__ float logit(int i) const { return logits_[i * kSampleThreads]; }
  __device__ int32_t id(int i) const { return ids_[i * kSampleThreads]; }
  __device__ void Put(int i, float logit, int32_t id) {
    logits_[i * kSampleThreads] = logit;
    ids_[i * kSampleThreads] = id;
  }

 private:
  float* logits_;
  int32_t* ids_;
  int each_;
};

// The first tokens of a row, in shared memory.
struct RowList {
  float logits[kMostListed];
  int32_t ids[kMostListed];
};

// What is before a token, by this thread's part of the tokens.
struct Before {
  int count = 0;
  double weight = 0;

  template <int kThreads>
  __device__ void Reduce() {
    count = ReduceBlock<kThreads>(count, 0, Sum());
    weight = ReduceBlock<kThreads>(weight, 0.0, Sum());
  }
};

__device__ inline bool IsBefore(float logit, int32_t id, const Candidate& token) {
  return logit > token.logit || (logit == token.logit && id < token.id);
}

// How many of the list's first `n` tokens are kept, where no others could be. All threads call it;
// the first warp does the work.
__device__ inline int CountKept(const Filter& filter, const RowList& list, int n) {
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
    if (threadIdx.x == 0) result = kept;
  }
  __syncthreads();
  const int kept = result;
  __syncthreads();
  return kept;
}

// The draw of a row whose top_k is short: `list` has its first min(n, top_k) tokens.
template <int kThreads>
__device__ Candidate DrawFromList(const SamplingRow& row, Filter filter, const RowList& list,
                                  int n) {
  static_assert(kThreads >= kMostListed);
  const int i = static_cast<int>(threadIdx.x);
  if (filter.top_p < 1) {
    const double weight = i < n ? filter.Weight(list.logits[i]) : 0;
    filter.total = ReduceBlock<kThreads>(weight, 0.0, Sum());
  }
  const int kept = CountKept(filter, list, n);
  Candidate candidate = kNoCandidate;
  if (i < kept) candidate = DrawKey(row).CandidateOf(list.logits[i], list.ids[i]);
  return BlockDraw<kThreads>(candidate);
}

// Calls body(part) for each part of a row of processed logits. All threads call it.
template <typename Body>
__device__ void ForEachPart(const SampleArguments& arguments, int64_t r, float temperature,
                            float* buffer, const Body& body) {
  for (int32_t begin = 0; begin < arguments.logits.vocab; begin += kSliceIds) {
    SlicePart part;
    part.begin = begin;
    part.Load(arguments.logits, arguments.logits.row(r));
    part.Process(arguments.rows[r], temperature, buffer);
    body(part);
  }
}

// The logit of the last of a row's top_k first tokens: digit by digit, finds its key.
__device__ __noinline__ inline float LastOfTopK(const SampleArguments& arguments, int64_t r,
                                                float temperature, int top_k, float* buffer) {
  __shared__ int counts[256];
  __shared__ int chosen;
  uint32_t prefix = 0;    // the digits found so far
  int remaining = top_k;  // of the tokens that have these digits
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = static_cast<int>(threadIdx.x); i < 256; i += kSampleThreads) counts[i] = 0;
    __syncthreads();
    ForEachPart(arguments, r, temperature, buffer, [&](const auto& part) {
#pragma unroll
      for (int i = 0; i < SlicePart::kSize; ++i) {
        const uint32_t key = KeyOf(part.value(i));
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
  return FloatOf(prefix);
}

// What is before a token in the whole row, weighed against the row's greatest logit.
__device__ __noinline__ inline Before WeighBefore(const SampleArguments& arguments, int64_t r,
                                                  float temperature, float max,
                                                  const Candidate& token, float* buffer) {
  Before before;
  ForEachPart(arguments, r, temperature, buffer, [&](const SlicePart& part) {
#pragma unroll
    for (int g = 0; g < kSampleGroups; ++g) {
      float weights[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float logit = part.fours[g].logits[c];
        const bool is_before = IsBefore(logit, part.GroupId(g) + c, token);
        before.count += is_before;
        weights[c] = is_before ? WeightOf(logit, max) : 0;
      }
      before.weight += (weights[0] + weights[1]) + (weights[2] + weights[3]);
    }
  });
  before.Reduce<kSampleThreads>();
  return before;
}

// The draw among the tokens before this one.
__device__ __noinline__ inline Candidate DrawBefore(const SampleArguments& arguments, int64_t r,
                                                    float temperature, const Candidate& token,
                                                    float* buffer) {
  DrawScan scan(arguments.rows[r], 1);
  // Each thread's groups go through the buffer, so that the work is there once and not four times,
  // which would take too many registers.
  Four* mine = reinterpret_cast<Four*>(buffer) + threadIdx.x;
  ForEachPart(arguments, r, temperature, buffer, [&](const SlicePart& part) {
#pragma unroll
    for (int g = 0; g < kSampleGroups; ++g) mine[g * kSampleThreads] = part.fours[g];
#pragma unroll 1
    for (int g = 0; g < kSampleGroups; ++g) {
      Four four = mine[g * kSampleThreads];
      const int32_t id = part.GroupId(g);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (!IsBefore(four.logits[c], id + c, token)) four.logits[c] = kImpossible;
      }
      scan.OfferFour(four, id);
    }
    scan.Share();
  });
  return BlockDraw<kSampleThreads>(scan.best());
}

// What top_k keeps of the whole row.
struct TopK {
  float last;  // the logit of the last one
  double weight;
};
__device__ __noinline__ inline TopK WeighTopK(const SampleArguments& arguments, int64_t r,
                                              float temperature, int top_k, float max,
                                              float* buffer) {
  const float last = LastOfTopK(arguments, r, temperature, top_k, buffer);
  const Before greater =
      WeighBefore(arguments, r, temperature, max, {kImpossible, last, -1, 0}, buffer);
  return {last, greater.weight + (top_k - greater.count) * double{WeightOf(last, max)}};
}

// The rounds over the whole row, from the draw among all tokens. What is before a token is weighed
// alone, faster than with the next draw: the first one is mostly kept. Once it is not, the draw is
// among what no filter but top_p can exclude. `least` is the logit of the last token that top_k
// keeps, where that is known.
__device__ __noinline__ inline Candidate DrawFromRow(const SampleArguments& arguments, int64_t r,
                                                     float temperature, const Filter& filter,
                                                     Candidate drawn, float least, float* buffer) {
  bool knows_last = filter.top_k == 0 || least != kImpossible;
  if (filter.min_p > 0) {  // less a margin for roundings
    least = fmaxf(least, filter.max + logf(filter.min_p) - fmaxf(0.01f, 1e-6f * fabsf(filter.max)));
  }
  while (true) {
    if (drawn.logit >= least) {
      const Before before = WeighBefore(arguments, r, temperature, filter.max, drawn, buffer);
      if (before.count == 0 || filter.Keeps(drawn.logit, before.count, before.weight)) return drawn;
    }
    if (!knows_last) {
      least = fmaxf(least, LastOfTopK(arguments, r, temperature, filter.top_k, buffer));
      knows_last = true;
    }
    const Candidate border = {kImpossible, least, INT32_MAX, 0};  // behind all that have `least`
    drawn = DrawBefore(arguments, r, temperature, drawn.logit < least ? border : drawn, buffer);
  }
}

// The same over the entries of the slices' lists. What is above `cover`, the greatest of the
// slices' last entries, is in the lists without gaps: that is enough if the kept tokens all are
// there. Returns false if that can't be known; then the row itself has to be read.
template <int kThreads>
__device__ bool DrawFromItems(const SamplingRow& row, const Filter& filter, const RowItems& items,
                              float cover, Candidate* drawn) {
  const DrawKey key(row);
  // Everything that is covered is before this.
  const Candidate border = {kImpossible, cover, -1, 0};
  if (drawn->logit <= cover) {
    Before before;
    for (int i = 0; i < items.each(); ++i) {
      if (!IsBefore(items.logit(i), items.id(i), border)) continue;
      ++before.count;
      before.weight += filter.Weight(items.logit(i));
    }
    before.Reduce<kThreads>();
    if (before.count == 0 || filter.Keeps(cover, before.count, before.weight)) return false;
    *drawn = border;
  }
  while (true) {
    Before before;
    Candidate next = kNoCandidate;
    for (int i = 0; i < items.each(); ++i) {
      const float logit = items.logit(i);
      const int32_t id = items.id(i);
      if (!IsBefore(logit, id, *drawn)) continue;
      ++before.count;
      before.weight += filter.Weight(logit);
      next = BetterCandidate()(next, key.CandidateOf(logit, id));
    }
    before.Reduce<kThreads>();
    if (before.count == 0) return true;
    if (drawn->id >= 0 && filter.Keeps(drawn->logit, before.count, before.weight)) return true;
    *drawn = BlockDraw<kThreads>(next);
  }
}

}  // namespace caravan::cuda
