// The Gumbel-max draw of kernels/sampling.h: of the candidates offered, the one with the greatest
// logit - log(-log u), exactly as in float64, at the price of a few float32 operations for each.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/device/sampling/block_reduce.cuh"
#include "kernels/device/sampling/float_key.cuh"
#include "kernels/device/sampling/row_logits.cuh"
#include "kernels/philox.h"

namespace caravan::cuda {

// A token with the random word of its noise, and its score in float32: within 2e-5 + 1e-6 · |score|
// of the exact one. id -1: none.
struct Candidate {
  float score;
  float logit;
  int32_t id;
  uint32_t word;
};
constexpr Candidate kNoCandidate = {kImpossible, kImpossible, -1, 0};

// Scores that are further apart are in the right order.
__device__ inline float Margin(float score) { return 2e-3f + 4e-6f * fabsf(score); }

constexpr float kLn2 = 0.69314718f;
// Bounds on -log(-log u): u is at most 1 - 2^-33 and at least 2^-33.
constexpr float kMostGumbel = 22.9f;
constexpr float kLeastGumbel = -3.14f;

// 1 - u, which has the word's leading bits where the noise is great.
__device__ inline float ComplementOf(uint32_t word) {
  return fmaf(__uint2float_rn(word), 0x1p-32f, 0x1p-33f);
}

// -log(-log u) with the special function unit's logarithm.
__device__ inline float FastGumbel(uint32_t word) {
  const float v = ComplementOf(word);
  if (v < 0.03f) {  // log(-log(1 - v)) = log v + v/2 + 5 v²/24 + O(v³/8)
    return -(kLn2 * __log2f(v) + v * fmaf(v, 5.0f / 24, 0.5f));
  }
  return -kLn2 * __log2f(-kLn2 * __log2f(ComplementOf(~word)));
}

// The better one, exactly. Equal logits cancel, however great they are. Out of line, since it runs
// only for scores that are all but equal.
__device__ __noinline__ inline bool IsBetterExactly(const Candidate& a, const Candidate& b) {
  const auto gumbel = [](uint32_t word) {
    const double v = (static_cast<double>(word) + 0.5) * 0x1p-32;
    return -log(-log1p(-v));
  };
  const double lead = (double{a.logit} - double{b.logit}) + (gumbel(a.word) - gumbel(b.word));
  return lead != 0 ? lead > 0 : a.id < b.id;
}

struct BetterCandidate {
  __device__ Candidate operator()(const Candidate& a, const Candidate& b) const {
    if (b.id < 0) return a;
    if (a.id < 0) return b;
    const float lead = a.score - b.score;
    if (fabsf(lead) > Margin(fmaxf(fabsf(a.score), fabsf(b.score)))) return lead > 0 ? a : b;
    return IsBetterExactly(a, b) ? a : b;
  }
};

__device__ inline Candidate WarpDraw(const Candidate& candidate) {
  const float best = WarpMax(candidate.score);
  const uint32_t near =
      __ballot_sync(0xffffffffu, candidate.id >= 0 && candidate.score >= best - 2 * Margin(best));
  if (near == 0) return kNoCandidate;
  if ((near & (near - 1)) == 0) return FromLane(candidate, __ffs(static_cast<int>(near)) - 1);
  return ReduceWarp(candidate, BetterCandidate());
}

template <int kThreads>
__device__ Candidate BlockDraw(const Candidate& candidate) {
  return ReduceWarps<kThreads>(candidate, kNoCandidate,
                               [](const Candidate& part) { return WarpDraw(part); });
}

// What the noise of a row depends on.
struct DrawKey {
  uint64_t seed;
  uint32_t position;
  uint32_t sample_index;

  __device__ explicit DrawKey(const SamplingRow& row)
      : seed(row.seed),
        position(static_cast<uint32_t>(row.position)),
        sample_index(row.sample_index) {}

  // Of ids id / 4 · 4 to that + 3.
  __device__ PhiloxWords Words(int32_t id) const {
    return Philox4x32(seed, {{position, sample_index, static_cast<uint32_t>(PhiloxPurpose::kSample),
                              static_cast<uint32_t>(id) / 4}});
  }

  __device__ Candidate CandidateOf(float logit, int32_t id) const {
    const PhiloxWords words = Words(id);
    const uint32_t low = id % 2 == 0 ? words.word[0] : words.word[1];
    const uint32_t high = id % 2 == 0 ? words.word[2] : words.word[3];
    const uint32_t word = id % 4 < 2 ? low : high;
    return {logit + FastGumbel(word), logit, id, word};
  }
};

// Keeps a thread's best candidate of many, given as logits that are still to be divided by the
// temperature. Most are discarded by a bound on their score, groups of four before their random
// words are computed.
class DrawScan {
 public:
  __device__ DrawScan(const SamplingRow& row, float temperature)
      : key_(row), temperature_(temperature), inverse_(1 / temperature) {}

  // Some thread of the block is offered a candidate of this logit.
  __device__ void Expect(float logit) { Raise(Scale(logit) + kLeastGumbel); }

  // Whether a candidate of this logit or less could, by what is known so far.
  __device__ bool CouldWin(float logit) const { return Scale(logit) + kMostGumbel > threshold_; }

  // Ids [id, id + 4), id a multiple of 4; impossible ones have the logit kImpossible.
  __device__ void OfferFour(const Four& four, int32_t id) {
    if (!CouldWin(four.max())) return;
    const PhiloxWords words = key_.Words(id);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      // -log u ≥ 1 - u.
      const float bound = Scale(four.logits[c]) - kLn2 * __log2f(ComplementOf(words.word[c]));
      if (bound > threshold_) Offer(four.logits[c], id + c, words.word[c]);
    }
  }

  // Lets the warp's lanes discard what can't win against another lane's best. All lanes call it.
  __device__ void Share() { Raise(WarpMax(best_.score)); }

  __device__ const Candidate& best() const { return best_; }

 private:
  __device__ float Scale(float logit) const { return fminf(logit * inverse_, FLT_MAX); }
  __device__ void Raise(float score) { threshold_ = fmaxf(threshold_, score - Margin(score)); }

  __device__ void Offer(float logit, int32_t id, uint32_t word) {
    const float score = Scale(logit) + FastGumbel(word);
    if (!(score > threshold_)) return;
    best_ = BetterCandidate()(best_, {score, Divide(logit, temperature_), id, word});
    Raise(best_.score);
  }

  const DrawKey key_;
  const float temperature_;
  const float inverse_;
  Candidate best_ = kNoCandidate;
  float threshold_ = kImpossible;  // what has no greater score can't win
};

}  // namespace caravan::cuda
