#include "kernels/cpu/token_filter.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/primitives.h"
#include "kernels/cpu/scratch.h"

namespace caravan::cpu {
namespace {

constexpr int32_t kLargestHeap = 1024;  // beyond it, selection over a copy of the row is faster

bool Before(const KeptToken& a, const KeptToken& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The k first by Before, 0 < k < logits.size().
int64_t SelectTopK(std::span<const float> logits, int32_t k, KeptToken* kept) {
  const int32_t vocab = static_cast<int32_t>(logits.size());
  if (k > kLargestHeap) {
    for (int32_t id = 0; id < vocab; ++id) kept[id] = {id, logits[static_cast<size_t>(id)], 0};
    std::nth_element(kept, kept + k, kept + vocab, Before);
    return k;
  }
  // A heap whose front is the last of the kept ones. Ids rise, so a tie with it never enters.
  for (int32_t id = 0; id < k; ++id) kept[id] = {id, logits[static_cast<size_t>(id)], 0};
  std::make_heap(kept, kept + k, Before);
  float threshold = kept[0].logit;
  for (int32_t id = k; id < vocab; ++id) {
    const float logit = logits[static_cast<size_t>(id)];
    if (logit <= threshold) continue;
    std::pop_heap(kept, kept + k, Before);
    kept[k - 1] = {id, logit, 0};
    std::push_heap(kept, kept + k, Before);
    threshold = kept[0].logit;
  }
  return k;
}

double SumOfWeights(const KeptToken* begin, const KeptToken* end) {
  double sum = 0;
  for (const KeptToken* token = begin; token != end; ++token) sum += token->weight;
  return sum;
}

// The fewest first tokens (by Before) of kept[0, n) whose weights reach `target`, moved to the
// front; at least one. Halves the range that holds the border until it is worth sorting.
int64_t SelectNucleus(KeptToken* kept, int64_t n, double target) {
  int64_t low = 0;
  int64_t high = n;
  double sum = 0;
  while (high - low > 32) {
    const int64_t middle = low + (high - low) / 2;
    std::nth_element(kept + low, kept + middle, kept + high, Before);
    const double half = SumOfWeights(kept + low, kept + middle);
    if (sum + half >= target) {
      high = middle;
    } else {
      sum += half;
      low = middle;
    }
  }
  std::sort(kept + low, kept + high, Before);
  for (; low < high; ++low) {
    sum += kept[low].weight;
    if (sum >= target) return low + 1;
  }
  return std::max<int64_t>(1, high);
}

// All tokens that could be in the nucleus, with their weights; returns how many, and adds the
// weight of all tokens to `total`. The others together weigh less than what top_p leaves out.
int64_t CollectLikely(std::span<const float> logits, float max, float top_p, KeptToken* kept,
                      double* total) {
  const int64_t vocab = static_cast<int64_t>(logits.size());
  float* weights = FloatScratch(ScratchUse::kRow, vocab);
  *total = ActivePrimitives().exp_sum(logits.data(), max, weights, vocab);
  const float least =
      static_cast<float>(*total * (1.0 - double{top_p}) / static_cast<double>(vocab) * 0.999);
  int64_t n = 0;
  for (int64_t id = 0; id < vocab; ++id) {
    if (weights[id] < least) continue;
    kept[n++] = {static_cast<int32_t>(id), logits[static_cast<size_t>(id)], weights[id]};
  }
  return n;
}

void FillWeights(float max, KeptToken* kept, int64_t n) {
  float* values = FloatScratch(ScratchUse::kRow, n);
  for (int64_t i = 0; i < n; ++i) values[i] = kept[i].logit;
  ActivePrimitives().exp_sum(values, max, values, n);
  for (int64_t i = 0; i < n; ++i) kept[i].weight = values[i];
}

}  // namespace

std::span<KeptToken> FilterTokens(std::span<const float> logits, float max,
                                  const TokenFilter& filter) {
  const int64_t vocab = static_cast<int64_t>(logits.size());
  KeptToken* kept = static_cast<KeptToken*>(
      Scratch(ScratchUse::kItems, vocab * static_cast<int64_t>(sizeof(KeptToken))));
  int64_t n = 0;
  double total = 0;
  if (filter.top_k > 0 && filter.top_k < vocab) {
    n = SelectTopK(logits, filter.top_k, kept);
    FillWeights(max, kept, n);
    total = SumOfWeights(kept, kept + n);
  } else {
    n = CollectLikely(logits, max, filter.top_p, kept, &total);
  }
  if (filter.top_p < 1) n = SelectNucleus(kept, n, double{filter.top_p} * total);
  KeptToken* end = std::remove_if(kept, kept + n, [&](const KeptToken& token) {
    return token.weight < filter.min_p || token.logit == -std::numeric_limits<float>::infinity();
  });
  return {kept, end};
}

}  // namespace caravan::cpu
