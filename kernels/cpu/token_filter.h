// Which tokens top_k, top_p and min_p keep.
#pragma once

#include <cstdint>
#include <span>

namespace caravan::cpu {

struct TokenFilter {
  int32_t top_k = 0;  // as in SamplingRow
  float top_p = 1;
  float min_p = 0;
};

struct KeptToken {
  int32_t id = 0;
  float logit = 0;
  float weight = 0;  // e^(logit - greatest logit): the probability, up to one factor
};

// The tokens of `logits` that `filter` keeps, in no order; banned ones (-infinity) never. `max` is
// the greatest logit, finite; no logit is NaN. The result is in this thread's scratch until the
// next call.
std::span<KeptToken> FilterTokens(std::span<const float> logits, float max,
                                  const TokenFilter& filter);

}  // namespace caravan::cpu
