#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>

#include "tests/kernels/op_fixture.h"
#include "tests/kernels/sampling_fixture.h"
#include "tests/kernels/sampling_golden_fixture.h"

namespace caravan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SamplingTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(GetParam()); }

  static SamplingOutput SampleOne(const std::vector<float>& logits, const SamplingRow& row) {
    return caravan::SampleOne(GetParam(), logits, row);
  }
  static std::vector<SamplingOutput> SampleRows(const std::vector<float>& logits,
                                                const std::vector<SamplingRow>& rows) {
    return caravan::SampleRows(GetParam(), logits, rows);
  }
};

// What the vocabulary of a case is made of.
enum class Shape : uint8_t { kPeaked, kFlat, kTied };

Tensor RandomLogits(Shape shape, int64_t rows, int64_t vocab, uint64_t seed) {
  Tensor logits = Tensor::Random(DType::kFloat32, rows, vocab, seed, vocab % 5);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < vocab; ++c) {
      const double x = logits.at(r, c);
      const double tied = std::round(2 * x);
      logits.Set(r, c, shape == Shape::kPeaked ? 4 * x : shape == Shape::kFlat ? 0.1 * x : tied);
    }
  }
  return logits;
}

// `row` at so many successive positions.
std::vector<SamplingRow> AtPositions(SamplingRow row, int64_t count) {
  std::vector<SamplingRow> rows;
  for (int64_t i = 0; i < count; ++i, ++row.position) rows.push_back(row);
  return rows;
}

TEST_P(SamplingTest, DrawsWhatTheReferenceDraws) {
  for (const SamplingCase& c : ReadSamplingCases()) {
    const auto outputs =
        SampleRows(c.logits, AtPositions(c.Row(), static_cast<int64_t>(c.drawn.size())));
    for (size_t i = 0; i < c.drawn.size(); ++i) {
      ASSERT_EQ(outputs[i].token_id, c.drawn[i]) << c.name << ", draw " << i;
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

std::map<int32_t, int64_t> CountDraws(const Target& target, const SamplingCase& c, int64_t draws) {
  constexpr int64_t kRows = 20000;
  std::map<int32_t, int64_t> counts;
  for (int64_t done = 0; done < draws; done += kRows) {
    SamplingRow first = c.Row();
    first.position = done;
    for (const SamplingOutput& output : SampleRows(target, c.logits, AtPositions(first, kRows))) {
      ++counts[output.token_id];
    }
  }
  return counts;
}

// Tokens that are expected fewer than five times share one bin.
void ExpectDistribution(const Target& target, const SamplingCase& c, int64_t draws) {
  SCOPED_TRACE(c.name);
  std::map<int32_t, int64_t> counts = CountDraws(target, c, draws);
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

TEST_P(SamplingTest, DrawsFollowTheDistributionOfEachMixOfParameters) {
  // The same draws for each instruction set, and whether batch-invariant or not.
  if (GetParam().device == Device::kCpu && GetParam().isa != BestCpuIsa()) GTEST_SKIP();
  if (GetParam().batch_invariant) GTEST_SKIP();
  const ScopedThreads one_thread(1);  // short rows
  int checked = 0;
  for (const SamplingCase& c : ReadSamplingCases()) {
    // None, temperature, top_k, top_p, min_p, then their mixes, two of them with many ties.
    static const std::set<std::string> mixes = {
        "vocab_33_0",  "vocab_33_3",  "vocab_33_5",  "vocab_33_8", "vocab_33_11", "vocab_33_14",
        "vocab_33_15", "vocab_33_16", "vocab_33_17", "ties_4",     "ties_6"};
    if (mixes.count(c.name) == 0) continue;
    ExpectDistribution(GetParam(), c, 200000);
    ++checked;
  }
  EXPECT_EQ(checked, 11);
}

TEST_P(SamplingTest, SampleIndicesAndSeedsDrawIndependently) {
  const std::vector<float> logits(8, 0.0f);
  SamplingRow other_index;
  other_index.sample_index = 1;
  SamplingRow other_seed;
  other_seed.seed = uint64_t{1} << 32;
  const auto a = SampleRows(logits, AtPositions({}, 4000));
  const auto b = SampleRows(logits, AtPositions(other_index, 4000));
  const auto c = SampleRows(logits, AtPositions(other_seed, 4000));
  int same_index = 0;
  int same_seed = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    same_index += a[i].token_id == b[i].token_id;
    same_seed += a[i].token_id == c[i].token_id;
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
    const SamplingRow row = {.temperature = temperature, .num_logprobs = 5};
    for (const SamplingOutput& output : SampleRows(logits, AtPositions(row, 100))) {
      EXPECT_TRUE(output.token_id == 1 || output.token_id == 3) << output.token_id;
      EXPECT_EQ(output.num_top, 2);
      EXPECT_TRUE(std::isfinite(output.logprob));
    }
    EXPECT_EQ(SampleOne({1, kInfinity, 5}, row).token_id, 1);
  }
}

// A model whose weights are damaged, or overflow, gives logits of which none is a number; that is
// not what parameters do which ban every token.
TEST_P(SamplingTest, TellsWhetherTheModelGaveANumber) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<TokenBias> all;
  for (int32_t id = 0; id < 9000; ++id) all.push_back({id, -kInfinity});
  const std::vector<int32_t> history = {0, 3, 8999};
  std::vector<SamplingRow> rows = {{},
                                   {.temperature = 0},
                                   {.top_k = 2},
                                   {.top_p = 0.5f},
                                   {.min_p = 0.5f},
                                   {.temperature = 2, .top_k = 1, .num_logprobs = 2},
                                   {.num_logprobs = 2, .processed_logprobs = true},
                                   {.history = history, .repetition_penalty = 1.5f}};
  for (const SamplingRow& row : rows) {
    SamplingRow banned = row;
    banned.biases = all;
    const auto is_finite = [](const std::vector<float>& logits, const SamplingRow& parameters) {
      return SampleOne(logits, parameters).finite;
    };
    std::vector<float> logits(9000, nan);
    EXPECT_FALSE(is_finite(logits, row));
    EXPECT_FALSE(is_finite(logits, banned));
    EXPECT_FALSE(is_finite(std::vector<float>(9000, -kInfinity), row));
    for (const size_t place : {size_t{0}, size_t{4095}, size_t{8999}}) {
      logits[place] = -3;
      EXPECT_TRUE(is_finite(logits, row)) << place;
      logits[place] = kInfinity;
      EXPECT_FALSE(is_finite(logits, row)) << place;
      logits[place] = nan;
    }
    EXPECT_TRUE(is_finite(std::vector<float>(9000, 0.0f), row));
    EXPECT_TRUE(is_finite(std::vector<float>(9000, 0.0f), banned));
  }
}

// In one call with others: their draws are what they are alone.
TEST_P(SamplingTest, ARowWithoutNumbersLeavesTheOthersAlone) {
  constexpr int32_t kVocab = 5000;
  Tensor logits = RandomLogits(Shape::kPeaked, 3, kVocab, 1);
  Tensor sound = logits;
  for (int64_t c = 0; c < kVocab; ++c) logits.Set(1, c, std::numeric_limits<double>::quiet_NaN());
  const std::vector<SamplingRow> rows(3, {.top_p = 0.9f, .num_logprobs = 3});
  const auto expected = caravan::SampleRows(GetParam(), sound, kVocab, rows);
  const auto outputs = caravan::SampleRows(GetParam(), logits, kVocab, rows);
  EXPECT_FALSE(outputs[1].finite);
  for (const size_t r : {size_t{0}, size_t{2}}) {
    EXPECT_TRUE(outputs[r].finite);
    EXPECT_EQ(outputs[r].token_id, expected[r].token_id);
    EXPECT_EQ(outputs[r].logprob, expected[r].logprob);
    EXPECT_EQ(outputs[r].num_top, 3);
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
  const auto outputs = caravan::SampleRows(GetParam(), logits, 33, rows);
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
  const auto outputs = caravan::SampleRows(GetParam(), logits, 31, rows);
  for (size_t r = 0; r < cases.size(); ++r) {
    const SamplingOutput alone = SampleOne(cases[r].logits, rows[r]);
    EXPECT_EQ(outputs[r].token_id, alone.token_id) << cases[r].name;
    EXPECT_EQ(outputs[r].logprob, alone.logprob) << cases[r].name;
    EXPECT_EQ(outputs[r].num_top, alone.num_top) << cases[r].name;
  }
}

// More rows than one launch takes, of several slices each, in calls that are enqueued one behind
// the other: each row as if it were alone.
TEST_P(SamplingTest, RowsOfCallsThatFollowEachOtherAreWhatTheyAreAlone) {
  constexpr int32_t kVocab = 4100;
  constexpr size_t kRows = 4500;
  constexpr size_t kCalls = 3;
  const std::vector<int32_t> history = {1, 2, 2, 4098};
  std::vector<SamplingRow> kinds = {{.temperature = 0},
                                    {.seed = 1},
                                    {.top_k = 3, .seed = 2},
                                    {.top_p = 0.9f, .seed = 3, .num_logprobs = 2},
                                    {.seed = 4, .num_logprobs = 0},
                                    {.history = history,
                                     .repetition_penalty = 1.5f,
                                     .num_logprobs = 3,
                                     .processed_logprobs = true},
                                    {.top_k = 2000, .top_p = 0.5f, .seed = 5}};
  Tensor shapes = RandomLogits(Shape::kPeaked, static_cast<int64_t>(kinds.size()), kVocab, 7);
  const Tensor flat = RandomLogits(Shape::kFlat, 1, kVocab, 8);
  for (int64_t c = 0; c < kVocab; ++c) shapes.Set(shapes.rows() - 1, c, flat.at(0, c));
  std::vector<SamplingOutput> alone;
  for (size_t k = 0; k < kinds.size(); ++k) {
    std::vector<float> logits;
    for (int64_t c = 0; c < kVocab; ++c) {
      logits.push_back(static_cast<float>(shapes.at(static_cast<int64_t>(k), c)));
    }
    alone.push_back(SampleOne(logits, kinds[k]));
  }

  TargetRun run(GetParam());
  kinds[5].history = run.In(history);
  const auto kind_of = [&](size_t call, size_t r) { return (r + call) % kinds.size(); };
  std::vector<std::vector<SamplingRow>> rows(kCalls);
  std::vector<std::vector<SamplingOutput>> outputs(kCalls, std::vector<SamplingOutput>(kRows));
  std::vector<Tensor> logits;
  for (size_t call = 0; call < kCalls; ++call) {
    Tensor& tensor = logits.emplace_back(DType::kFloat32, kRows, kVocab);
    for (size_t r = 0; r < kRows; ++r) {
      const size_t kind = kind_of(call, r);
      rows[call].push_back(kinds[kind]);
      std::memcpy(tensor.view().row(static_cast<int64_t>(r)),
                  shapes.view().row(static_cast<int64_t>(kind)), kVocab * sizeof(float));
    }
  }
  std::vector<MatrixView> inputs;
  std::vector<std::span<const SamplingRow>> parameters;
  std::vector<std::span<SamplingOutput>> results;
  for (size_t call = 0; call < kCalls; ++call) {
    inputs.push_back(run.Out(logits[call]));
    parameters.push_back(run.In(rows[call]));
    results.push_back(run.Out(outputs[call]));
  }
  for (size_t call = 0; call < kCalls; ++call) {
    Sample(inputs[call], kVocab, parameters[call], results[call], run.stream());
  }
  run.Finish();
  for (size_t call = 0; call < kCalls; ++call) {
    for (size_t r = 0; r < kRows; ++r) {
      SCOPED_TRACE(testing::Message() << "call " << call << " row " << r);
      const SamplingOutput& output = outputs[call][r];
      const SamplingOutput& expected = alone[kind_of(call, r)];
      ASSERT_EQ(output.token_id, expected.token_id);
      ASSERT_EQ(output.finite, expected.finite);
      ASSERT_EQ(output.logprob, expected.logprob);
      ASSERT_EQ(output.num_top, expected.num_top);
      for (int32_t i = 0; i < output.num_top; ++i) {
        ASSERT_EQ(output.top[i].token_id, expected.top[i].token_id);
        ASSERT_EQ(output.top[i].logprob, expected.top[i].logprob);
      }
    }
  }
}

TEST_P(SamplingTest, SkipsPaddingRows) {
  Tensor logits = Tensor::Random(DType::kFloat32, 3, 50, 1);
  SamplingRow padding;
  padding.skipped = true;
  const auto outputs =
      caravan::SampleRows(GetParam(), logits, 50, {padding, SamplingRow(), padding});
  EXPECT_EQ(outputs[0].token_id, -1);
  EXPECT_GE(outputs[1].token_id, 0);
  EXPECT_EQ(outputs[2].token_id, -1);
}

// Parameters of every kind and combination; spans point into `biases` and `history`.
SamplingRow RandomRow(std::mt19937& random, int64_t vocab, std::vector<TokenBias>& biases,
                      std::vector<int32_t>& history) {
  const auto draw = [&](int64_t below) { return static_cast<int32_t>(random() % below); };
  const auto pick = [&](auto... choices) {
    const float all[] = {static_cast<float>(choices)...};
    return all[static_cast<size_t>(draw(std::size(all)))];
  };
  SamplingRow row;
  row.seed = uint64_t{random()} << 32 | random();
  row.position = draw(1000);
  row.sample_index = static_cast<uint32_t>(draw(3));
  row.temperature = pick(0, 1, 1, 0.7, 1.5, 3);
  row.top_k = draw(2) == 0 ? 0 : static_cast<int32_t>(pick(1, 2, 40, 64, 100, 128, 129, 500, 5000));
  row.top_p = pick(1, 1, 0.05, 0.5, 0.9, 0.99);
  row.min_p = pick(0, 0, 0.001, 0.2, 1);
  row.num_logprobs = static_cast<int32_t>(pick(-1, 0, 1, 5, 20));
  row.processed_logprobs = draw(2) == 0;
  if (draw(3) == 0) {
    row.repetition_penalty = pick(1, 0.5, 1.3);
    row.frequency_penalty = pick(0, 0.3);
    row.presence_penalty = pick(0, -0.4);
    for (int i = 0, n = draw(700); i < n; ++i) history.push_back(draw(vocab + 3) - 1);
    row.history_prompt = draw(400);
    row.history = history;
  }
  if (draw(3) == 0) {
    for (int i = 0, n = draw(600); i < n; ++i) {
      biases.push_back({draw(vocab), pick(-kInfinity, -1.5, 2, 7)});
    }
    row.biases = biases;
  }
  return row;
}

// Both sums of weights have relative errors as ReportsTheLogProbabilitiesOfTheReference says, and
// the results are rounded.
void ExpectEqual(const SamplingOutput& output, const SamplingOutput& expected,
                 const SamplingRow& row) {
  const auto describe = [&] {
    return testing::Message() << "T " << row.temperature << " k " << row.top_k << " p " << row.top_p
                              << " min_p " << row.min_p << " logprobs " << row.num_logprobs
                              << (row.processed_logprobs ? " processed" : " raw") << " biases "
                              << row.biases.size() << " history " << row.history.size();
  };
  const auto is_near = [](float a, float b) {
    return a == b || std::fabs(a - b) <= 0x1p-23f * (2 * (64 + 3 + 1) + std::fabs(a));
  };
  EXPECT_EQ(output.token_id, expected.token_id) << describe();
  EXPECT_EQ(output.finite, expected.finite) << describe();
  EXPECT_TRUE(is_near(output.logprob, expected.logprob))
      << output.logprob << ", not " << expected.logprob << ": " << describe();
  ASSERT_EQ(output.num_top, expected.num_top) << describe();
  for (int32_t i = 0; i < output.num_top; ++i) {
    EXPECT_EQ(output.top[i].token_id, expected.top[i].token_id) << "place " << i << describe();
    EXPECT_TRUE(is_near(output.top[i].logprob, expected.top[i].logprob)) << describe();
  }
}

// Flat rows keep more tokens than any list of the greatest has.
TEST_P(SamplingTest, DrawsFromManyKeptTokens) {
  constexpr int32_t kVocab = 9001;
  const std::vector<int32_t> history = {5, 5, 8999, 4096};
  const std::vector<TokenBias> biases = {{8999, 1}, {17, -kInfinity}, {8999, 0.5f}};
  std::vector<SamplingRow> rows = {
      {.top_p = 0.9f},
      {.top_k = 2000},
      {.top_k = 3000, .top_p = 0.5f},
      {.min_p = 0.8f},
      {.top_p = 0.02f},
      {.top_k = 150, .min_p = 0.9f},
      {.top_k = 150},
      {.biases = biases,
       .history = history,
       .history_prompt = 1,
       .repetition_penalty = 1.2f,
       .temperature = 2,
       .top_p = 0.7f},
      {.biases = biases, .history = history, .frequency_penalty = 1, .top_k = 4000, .top_p = 0.6f}};
  for (size_t r = 0; r < rows.size(); ++r) rows[r].seed = r;
  Tensor logits = RandomLogits(Shape::kFlat, static_cast<int64_t>(rows.size()), kVocab, 3);
  Tensor copy = logits;
  const auto expected =
      caravan::SampleRows({Device::kCpu, BestCpuIsa(), false}, logits, kVocab, rows);
  const auto outputs = caravan::SampleRows(GetParam(), copy, kVocab, rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    SCOPED_TRACE(r);
    ExpectEqual(outputs[r], expected[r], rows[r]);
  }
}

// Without an independent reference, which the golden file is for short rows: the CPU's and the
// GPU's ways to a token have nothing in common but the definition. Where two scores, or a border of
// top_p, are within rounding (1e-6, about as likely in a row) they could differ; the seeds are
// fixed.
TEST_P(SamplingTest, DrawsWhatTheCpuDraws) {
  const Target cpu = {Device::kCpu, BestCpuIsa(), false};
  for (const int64_t vocab : {3, 31, 4095, 4096, 4097, 32000, 128256, 151936, 400000}) {
    for (const Shape shape : {Shape::kPeaked, Shape::kFlat, Shape::kTied}) {
      const int64_t rows = vocab > 150000 ? 20 : vocab > 100000 ? 60 : 120;
      std::mt19937 random(static_cast<uint32_t>(vocab) + static_cast<uint32_t>(shape));
      std::vector<std::vector<TokenBias>> biases(static_cast<size_t>(rows));
      std::vector<std::vector<int32_t>> histories(biases.size());
      std::vector<SamplingRow> parameters;
      for (size_t r = 0; r < biases.size(); ++r) {
        parameters.push_back(RandomRow(random, vocab, biases[r], histories[r]));
      }
      Tensor logits = RandomLogits(shape, rows, vocab, static_cast<uint64_t>(vocab));
      Tensor copy = logits;
      const auto expected =
          caravan::SampleRows(cpu, logits, static_cast<int32_t>(vocab), parameters);
      const auto outputs =
          caravan::SampleRows(GetParam(), copy, static_cast<int32_t>(vocab), parameters);
      for (size_t r = 0; r < outputs.size(); ++r) {
        SCOPED_TRACE(testing::Message() << "row " << r << " of " << vocab << " tokens, shape "
                                        << static_cast<int>(shape));
        ExpectEqual(outputs[r], expected[r], parameters[r]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SamplingTest, testing::ValuesIn(AllTargets()),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace caravan
