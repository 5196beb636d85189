#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>

#include "tests/kernels/op_fixture.h"
#include "tests/kernels/sampling_golden_fixture.h"

namespace caravan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SamplingTest : public testing::TestWithParam<CpuIsa> {
 protected:
  ScopedIsa isa_{GetParam()};
};

SamplingOutput SampleOne(std::vector<float> logits, const SamplingRow& row) {
  SamplingOutput output;
  const int32_t vocab = static_cast<int32_t>(logits.size());
  Sample(DenseMatrix(logits.data(), DType::kFloat32, 1, vocab), vocab, {&row, 1}, {&output, 1},
         DeviceStream::Cpu());
  return output;
}

TEST_P(SamplingTest, DrawsWhatTheReferenceDraws) {
  for (const SamplingCase& c : ReadSamplingCases()) {
    SamplingRow row = c.Row();
    for (size_t i = 0; i < c.drawn.size(); ++i) {
      ASSERT_EQ(SampleOne(c.logits, row).token_id, c.drawn[i]) << c.name << ", draw " << i;
      ++row.position;
    }
  }
}

// Both sides process the logits in float32 with the same operations. The log of Σ e^(l - max) has
// the absolute error that is the sum's relative one: 64 additions a lane and 3 units an exponential
// of a rounded difference. One rounding to float32 follows, and the file has 9 digits.
TEST_P(SamplingTest, ReportsTheLogProbabilitiesOfTheReference) {
  for (const SamplingCase& c : ReadSamplingCases()) {
    for (bool processed : {false, true}) {
      SCOPED_TRACE(c.name + (processed ? " processed" : " raw"));
      const auto& expected = processed ? c.processed_logprobs : c.raw_logprobs;
      SamplingRow row = c.Row();
      row.num_logprobs = static_cast<int32_t>(expected.size());
      row.processed_logprobs = processed;
      const SamplingOutput output = SampleOne(c.logits, row);
      ASSERT_EQ(output.num_top, row.num_logprobs);
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_EQ(output.top[i].token_id, expected[i].first) << "place " << i;
        const double tolerance = 0x1p-23 * (64 + 3 + 1 + std::fabs(expected[i].second)) + 1e-8;
        ASSERT_NEAR(output.top[i].logprob, expected[i].second, tolerance);
        if (output.token_id == expected[i].first) {
          EXPECT_EQ(output.logprob, output.top[i].logprob);
        }
      }
    }
  }
}

// P(X ≥ x) for chi-square with k degrees of freedom: the regularized upper incomplete gamma
// function, by its series or its continued fraction (Abramowitz and Stegun 6.5.29, 6.5.31).
double ChiSquareTail(double x, double degrees) {
  const double a = degrees / 2;
  const double half = x / 2;
  const double factor = std::exp(a * std::log(half) - half - std::lgamma(a));
  if (half < a + 1) {
    double term = 1 / a;
    double sum = term;
    for (int n = 1; n < 1000; ++n) sum += term *= half / (a + n);
    return 1 - factor * sum;
  }
  double fraction = 0;
  for (int n = 1000; n > 0; --n) fraction = n * (n - a) / (2 * n + 1 + half - a - fraction);
  return factor / (half + 1 - a - fraction);
}

TEST(ChiSquareTail, HasTheTabulatedQuantiles) {
  EXPECT_NEAR(ChiSquareTail(3.841, 1), 0.05, 1e-4);
  EXPECT_NEAR(ChiSquareTail(18.307, 10), 0.05, 1e-4);
  EXPECT_NEAR(ChiSquareTail(149.449, 100), 0.001, 1e-5);
  EXPECT_NEAR(ChiSquareTail(77.929, 100), 0.95, 1e-4);
}

// Draws for `draws` positions, as batches of rows.
std::map<int32_t, int64_t> CountDraws(const SamplingCase& c, int64_t draws) {
  constexpr int64_t kRows = 500;
  std::map<int32_t, int64_t> counts;
  std::vector<SamplingRow> rows(kRows, c.Row());
  std::vector<SamplingOutput> outputs(kRows);
  std::vector<float> logits;
  for (int64_t done = 0; done < draws; done += kRows) {
    logits.clear();
    for (int64_t r = 0; r < kRows; ++r) {
      rows[static_cast<size_t>(r)].position = done + r;
      logits.insert(logits.end(), c.logits.begin(), c.logits.end());
    }
    Sample(DenseMatrix(logits.data(), DType::kFloat32, kRows, c.vocab()), c.vocab(), rows, outputs,
           DeviceStream::Cpu());
    for (const SamplingOutput& output : outputs) ++counts[output.token_id];
  }
  return counts;
}

// Tokens that are expected fewer than five times share one bin.
void ExpectDistribution(const SamplingCase& c, int64_t draws) {
  SCOPED_TRACE(c.name);
  std::map<int32_t, int64_t> counts = CountDraws(c, draws);
  double statistic = 0;
  double rare_expected = 0;
  double rare_seen = 0;
  int bins = 0;
  const auto add = [&](double expected, double seen) {
    statistic += (seen - expected) * (seen - expected) / expected;
    ++bins;
  };
  for (const auto& [id, probability] : c.kept) {
    const double expected = probability * static_cast<double>(draws);
    const double seen = static_cast<double>(counts[id]);
    counts.erase(id);
    if (expected >= 5) {
      add(expected, seen);
    } else {
      rare_expected += expected;
      rare_seen += seen;
    }
  }
  EXPECT_TRUE(counts.empty()) << "drew token " << counts.begin()->first << ", which is filtered";
  if (rare_expected >= 1) add(rare_expected, rare_seen);
  if (bins > 1) {
    EXPECT_GT(ChiSquareTail(statistic, bins - 1), 1e-6) << statistic << ", " << bins << " bins";
  }
}

TEST(Sampling, DrawsFollowTheDistributionOfEachMixOfParameters) {
  const ScopedThreads one_thread(1);  // short rows, many calls
  int checked = 0;
  for (const SamplingCase& c : ReadSamplingCases()) {
    // None, temperature, top_k, top_p, min_p, then their mixes, two of them with many ties.
    static const std::set<std::string> mixes = {
        "vocab_33_0",  "vocab_33_3",  "vocab_33_5",  "vocab_33_8", "vocab_33_11", "vocab_33_14",
        "vocab_33_15", "vocab_33_16", "vocab_33_17", "ties_4",     "ties_6"};
    if (mixes.count(c.name) == 0) continue;
    ExpectDistribution(c, 200000);
    ++checked;
  }
  EXPECT_EQ(checked, 11);
}

TEST(Sampling, SampleIndicesAndSeedsDrawIndependently) {
  SamplingCase c;
  c.logits.assign(8, 0.0f);
  SamplingRow a = c.row;
  SamplingRow b = c.row;
  b.sample_index = 1;
  SamplingRow other_seed = c.row;
  other_seed.seed = uint64_t{1} << 32;
  int same_index = 0;
  int same_seed = 0;
  for (int i = 0; i < 4000; ++i) {
    a.position = b.position = other_seed.position = i;
    const int32_t token = SampleOne(c.logits, a).token_id;
    same_index += token == SampleOne(c.logits, b).token_id;
    same_seed += token == SampleOne(c.logits, other_seed).token_id;
  }
  // One in eight by chance; 5 standard deviations are 105.
  EXPECT_NEAR(same_index, 500, 105);
  EXPECT_NEAR(same_seed, 500, 105);
}

TEST_P(SamplingTest, GreedyTakesTheLowestIdAmongEquals) {
  for (int64_t first : {0, 1, 15, 16, 17, 63}) {
    std::vector<float> logits(64, -1.0f);
    for (int64_t i = first; i < 64; i += 3) logits[static_cast<size_t>(i)] = 2.5f;
    EXPECT_EQ(SampleOne(logits, {.temperature = 0}).token_id, first);
  }
}

TEST_P(SamplingTest, TreatsNanAsImpossibleAndInfinityAsTheGreatest) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {nan, 1, nan, 2, -kInfinity};
  for (float temperature : {0.0f, 1.0f}) {
    SamplingRow row = {.temperature = temperature, .num_logprobs = 5};
    for (int i = 0; i < 100; ++i) {
      row.position = i;
      const SamplingOutput output = SampleOne(logits, row);
      EXPECT_TRUE(output.token_id == 1 || output.token_id == 3) << output.token_id;
      EXPECT_EQ(output.num_top, 2);
      EXPECT_TRUE(std::isfinite(output.logprob));
    }
    EXPECT_EQ(SampleOne({1, kInfinity, 5}, row).token_id, 1);
  }
}

TEST_P(SamplingTest, GivesTheLowestIdWhereEveryTokenIsImpossible) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const SamplingRow& row :
       {SamplingRow{}, {.temperature = 0}, {.top_k = 2}, {.top_p = 0.5f}, {.min_p = 0.5f}}) {
    for (float value : {nan, -kInfinity}) {
      SamplingRow with_logprobs = row;
      with_logprobs.num_logprobs = 3;
      const SamplingOutput output = SampleOne(std::vector<float>(40, value), with_logprobs);
      EXPECT_EQ(output.token_id, 0);
      EXPECT_EQ(output.num_top, 0);
      EXPECT_EQ(output.logprob, -kInfinity);
    }
  }
}

TEST_P(SamplingTest, ATinyTemperatureIsGreedy) {
  const std::vector<float> logits = {-3, 7, 6.9f, 7, 2};
  for (float temperature : {1e-6f, 1e-30f, 1e-38f, 1e-45f}) {
    SamplingRow row = {.temperature = temperature, .top_k = 1};
    EXPECT_EQ(SampleOne(logits, row).token_id, 1) << temperature;
    row.top_k = 0;
    const int32_t drawn = SampleOne(logits, row).token_id;
    EXPECT_TRUE(drawn == 1 || drawn == 3) << drawn << " at " << temperature;
  }
}

TEST_P(SamplingTest, NeverDrawsPaddingColumnsAndLeavesThemAlone) {
  Tensor logits(DType::kFloat32, 3, 40, 5);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 40; ++c) logits.Set(r, c, c < 33 ? 0.01 * static_cast<double>(c) : 1e9);
  }
  const std::vector<SamplingRow> rows = {{.temperature = 0}, {.top_k = 40}, {.top_p = 0.99f}};
  std::vector<SamplingOutput> outputs(3);
  Sample(logits.view(), 33, rows, outputs, DeviceStream::Cpu());
  EXPECT_EQ(outputs[0].token_id, 32);
  for (const SamplingOutput& output : outputs) EXPECT_LT(output.token_id, 33);
  for (int64_t r = 0; r < 3; ++r) EXPECT_EQ(logits.at(r, 33), 1e9);
  EXPECT_TRUE(logits.GuardsAreIntact());
}

// Mixed parameters in one call, on several threads: each row as if it were alone.
TEST_P(SamplingTest, RowsDoNotDependOnTheBatch) {
  std::vector<SamplingCase> cases;
  for (SamplingCase& c : ReadSamplingCases()) {
    if (c.vocab() == 31) cases.push_back(std::move(c));
  }
  ScopedThreads threads(3);
  Tensor logits(DType::kFloat32, static_cast<int64_t>(cases.size()), 31, 1);
  std::vector<SamplingRow> rows;
  for (size_t r = 0; r < cases.size(); ++r) {
    rows.push_back(cases[r].Row());
    rows.back().num_logprobs = static_cast<int32_t>(r % 4);
    rows.back().processed_logprobs = r % 2 == 0;
    for (size_t c = 0; c < 31; ++c) {
      logits.Set(static_cast<int64_t>(r), static_cast<int64_t>(c), cases[r].logits[c]);
    }
  }
  std::vector<SamplingOutput> outputs(cases.size());
  Sample(logits.view(), 31, rows, outputs, DeviceStream::Cpu());
  for (size_t r = 0; r < cases.size(); ++r) {
    const SamplingOutput alone = SampleOne(cases[r].logits, rows[r]);
    EXPECT_EQ(outputs[r].token_id, alone.token_id) << cases[r].name;
    EXPECT_EQ(outputs[r].logprob, alone.logprob) << cases[r].name;
    EXPECT_EQ(outputs[r].num_top, alone.num_top) << cases[r].name;
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, SamplingTest, testing::ValuesIn(RunnableIsas()),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

}  // namespace
}  // namespace caravan
