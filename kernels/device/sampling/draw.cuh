// The Gumbel-max draw of kernels/sampling.h: of the candidates offered, the one with the greatest
// logit - log(-log u), exactly as in float64, at the price of a few float32 operations for each.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/device/sampling/block_reduce.cuh"
#include "kernels/device/sampling/row_logits.cuh"
#include "kernels/device/sampling/select_top.cuh"
#include "kernels/philox.h"

namespace caravan::cuda {

// A candidate with its noise -log(-log u); id -1: none.
struct Drawn {
  float logit;
  int32_t id;
  double gumbel;
};

constexpr Drawn kNoDraw = {kImpossible, -1, 0};

struct BetterDraw {
  __device__ Drawn operator()(const Drawn& a, const Drawn& b) const {
    if (a.id < 0) return b;
    if (b.id < 0) return a;
    // Equal logits cancel exactly, however great they are.
    const double lead = (double{a.logit} - double{b.logit}) + (a.gumbel - b.gumbel);
    if (lead != 0) return lead > 0 ? a : b;
    return a.id < b.id ? a : b;
  }
};

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
};

// u = 1 - (word + 1/2) / 2^32.
__device__ inline double Gumbel(uint32_t word) {
  const double v = (static_cast<double>(word) + 0.5) * 0x1p-32;
  return -log(-log1p(-v));
}

// Scores in float32 for most candidates, with noise from the special function unit: within
// 2e-5 + 5e-7 · |score|. Only those that are within twice that of the best are looked at again.
class DrawScan {
 public:
  __device__ explicit DrawScan(const SamplingRow& row) : key_(row) {}

  // Ids [id, id + 4), id a multiple of 4; impossible ones have the logit kImpossible.
  __device__ void OfferFour(const float* logits, int32_t id) {
    const float top = fmaxf(fmaxf(logits[0], logits[1]), fmaxf(logits[2], logits[3]));
    if (!(top + kMostGumbel > threshold_)) return;
    const PhiloxWords words = key_.Words(id);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float v = fmaf(__uint2float_rn(words.word[c]), 0x1p-32f, 0x1p-33f);
      // -log u ≥ v: the least noise's logarithm is enough to discard most.
      if (!(logits[c] - kLn2 * __log2f(v) > threshold_)) continue;
      Offer(logits[c], id + c, words.word[c], v);
    }
  }

  // Lets the warp's lanes discard what can't win against another lane's best. All lanes call it.
  __device__ void Share() {
    const float best = FloatOf(__reduce_max_sync(0xffffffffu, KeyOf(score_)));
    threshold_ = fmaxf(threshold_, best - Margin(best));
  }

  // The best of the block, in every thread.
  template <int kThreads>
  __device__ Drawn Finish() const {
    const float best = ReduceBlock<kThreads>(score_, kImpossible, Max());
    Drawn drawn = kNoDraw;
    if (id_ >= 0 && score_ >= best - Margin(best)) drawn = {logit_, id_, Gumbel(word_)};
    return ReduceBlock<kThreads>(drawn, kNoDraw, BetterDraw());
  }

 private:
  static constexpr float kLn2 = 0.69314718f;
  static constexpr float kMostGumbel = 22.9f;  // -log v of the least v, 2^-33, is 22.87

  __device__ static float Margin(float score) { return 2e-3f + 1e-6f * fabsf(score); }

  __device__ void Offer(float logit, int32_t id, uint32_t word, float v) {
    float score;
    if (v < 0.03f) {  // log(-log(1 - v)) = log v + v/2 + 5 v²/24 + O(v³/8)
      score = logit - (kLn2 * __log2f(v) + v * fmaf(v, 5.0f / 24, 0.5f));
    } else {
      const float u = fmaf(__uint2float_rn(~word), 0x1p-32f, 0x1p-33f);
      score = logit - kLn2 * __log2f(-kLn2 * __log2f(u));
    }
    if (!(score > threshold_)) return;
    if (id_ >= 0 && !(score > score_ + Margin(score_))) {
      const Drawn mine = {logit_, id_, Gumbel(word_)};
      const Drawn other = {logit, id, Gumbel(word)};
      if (BetterDraw()(mine, other).id == id_) return;
    }
    score_ = score;
    logit_ = logit;
    id_ = id;
    word_ = word;
    threshold_ = fmaxf(threshold_, score - Margin(score));
  }

  const DrawKey key_;
  float score_ = kImpossible;
  float logit_ = kImpossible;
  float threshold_ = kImpossible;  // scores up to it lose
  int32_t id_ = -1;
  uint32_t word_ = 0;
};

}  // namespace caravan::cuda
