#include "kernels/cpu/token_filter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/op_fixture.h"
#include "tests/kernels/sampling_golden_fixture.h"

namespace caravan {
namespace {

std::vector<cpu::KeptToken> Filter(const std::vector<float>& logits,
                                   const cpu::TokenFilter& filter) {
  const float max = *std::max_element(logits.begin(), logits.end());
  const auto kept = cpu::FilterTokens(logits, max, filter);
  std::vector<cpu::KeptToken> sorted(kept.begin(), kept.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  return sorted;
}

std::vector<int32_t> Ids(const std::vector<cpu::KeptToken>& tokens) {
  std::vector<int32_t> ids;
  for (const auto& token : tokens) ids.push_back(token.id);
  return ids;
}

class TokenFilterTest : public testing::TestWithParam<CpuIsa> {
 protected:
  ScopedIsa isa_{GetParam()};
};

// Weights are float32 exponentials within 3 units of numbers that were rounded once: the relative
// error of each, and of their sum, is at most 2^-23 · (3 + |l - max|), of the golden file 5e-9.
TEST_P(TokenFilterTest, KeepsWhatTheReferenceKeepsWithItsProbabilities) {
  int checked = 0;
  for (const SamplingCase& c : ReadSamplingCases()) {
    if (!c.biases.empty() || !c.history.empty() || c.row.temperature == 0) continue;
    SCOPED_TRACE(c.name);
    std::vector<float> logits = c.logits;
    for (float& logit : logits) logit /= c.row.temperature;
    const auto kept = Filter(logits, {c.row.top_k, c.row.top_p, c.row.min_p});
    ASSERT_EQ(kept.size(), c.kept.size());
    double total = 0;
    for (const auto& token : kept) total += token.weight;
    const double range = double{kept.front().logit} - double{kept.back().logit};
    for (size_t i = 0; i < kept.size(); ++i) {
      ASSERT_EQ(kept[i].id, c.kept[i].first) << "place " << i;
      const double p = c.kept[i].second;
      ASSERT_NEAR(kept[i].weight / total, p, p * (2 * 0x1p-23 * (3 + range) + 1e-8));
    }
    ++checked;
  }
  EXPECT_GT(checked, 80);
}

TEST_P(TokenFilterTest, BreaksTiesByTheLowerId) {
  const std::vector<float> logits = {1, 2, 2, 1, 2, 1};
  EXPECT_EQ(Ids(Filter(logits, {.top_k = 2})), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(Ids(Filter(logits, {.top_k = 4})), (std::vector<int32_t>{1, 2, 4, 0}));
  EXPECT_EQ(Ids(Filter(logits, {.top_p = 0.3f})), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(Ids(Filter(std::vector<float>(1000, 0.5f), {.top_p = 0.1005f})).back(), 100);
}

TEST_P(TokenFilterTest, NeverKeepsABannedToken) {
  std::vector<float> logits(100, -INFINITY);
  logits[70] = -5;
  logits[90] = -5;
  for (const cpu::TokenFilter& filter :
       {cpu::TokenFilter{}, {.top_k = 10}, {.top_p = 0.999f}, {.top_k = 10, .top_p = 0.999f}}) {
    EXPECT_EQ(Ids(Filter(logits, filter)), (std::vector<int32_t>{70, 90}));
  }
}

// A flat distribution, for which everything but the last few tokens is in the nucleus.
TEST_P(TokenFilterTest, FindsTheBorderOfAWideNucleus) {
  std::vector<float> logits;
  for (int i = 0; i < 50000; ++i) logits.push_back(static_cast<float>((i * 7919) % 50000) * 1e-6f);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (float top_p : {0.25f, 0.7f, 0.99f}) {
    const auto kept = Filter(logits, {.top_p = top_p});
    double total = 0;
    for (float logit : sorted) total += std::exp(double{logit});
    double sum = 0;
    size_t n = 0;
    while (sum < double{top_p} * total) sum += std::exp(double{sorted[n++]});
    // Each weight is within 3 units, so the border may move by 50000 · 6 · 2^-23 tokens.
    EXPECT_NEAR(static_cast<double>(kept.size()), static_cast<double>(n), 1);
    EXPECT_EQ(kept.back().logit, sorted[kept.size() - 1]);
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, TokenFilterTest, testing::ValuesIn(RunnableIsas()),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

}  // namespace
}  // namespace caravan
