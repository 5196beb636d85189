#include "worker/engine/cost_model.h"

#include <gtest/gtest.h>

#include <random>

namespace caravan {
namespace {

// A machine of 5 ms a step, 10 us a token, 20 ns a token of context.
double Truth(const StepLoad& load) {
  return 5e-3 + 1e-5 * static_cast<double>(load.tokens) +
         2e-8 * static_cast<double>(load.context_tokens);
}

class CostModelTest : public ::testing::Test {
 protected:
  StepLoad RandomLoad() {
    return {std::uniform_int_distribution<int64_t>(1, 2048)(random_),
            std::uniform_int_distribution<int64_t>(1, 200000)(random_)};
  }
  void Learn(int steps) {
    for (int i = 0; i < steps; ++i) {
      const StepLoad load = RandomLoad();
      model_.Observe(load, Truth(load) * std::uniform_real_distribution<>(0.98, 1.02)(random_));
    }
  }
  void ExpectLearned() {
    for (int i = 0; i < 100; ++i) {
      const StepLoad load = RandomLoad();
      EXPECT_NEAR(model_.Predict(load), Truth(load), 0.05 * Truth(load));
    }
  }

  std::mt19937 random_{1};
  CostModel model_;
};

TEST_F(CostModelTest, KnowsNothingAtFirst) {
  EXPECT_EQ(model_.Predict({100, 100}), 0);
  EXPECT_GT(model_.TokensWithin(1e-6, {100, 100}), 1000000);
}

TEST_F(CostModelTest, FindsTheCostsOfAMachine) {
  Learn(200);
  ExpectLearned();
}

TEST_F(CostModelTest, TurnsATimeIntoTokens) {
  Learn(200);
  // (20 ms - 5 ms - 1 ms of decodes - 2 ms of context) / 10 us
  EXPECT_NEAR(model_.TokensWithin(20e-3, {100, 100000}), 1200, 60);
  EXPECT_EQ(model_.TokensWithin(1e-3, {100, 100000}), 0);
}

TEST_F(CostModelTest, ForgetsAMachineThatHasBecomeFaster) {
  for (int i = 0; i < 500; ++i) {
    const StepLoad load = RandomLoad();
    model_.Observe(load, 10 * Truth(load));
  }
  Learn(500);
  ExpectLearned();
}

TEST_F(CostModelTest, AnOutlierHardlyCounts) {
  Learn(200);
  model_.Observe({100, 1000}, 100);
  const StepLoad load = {500, 50000};
  EXPECT_LT(model_.Predict(load), 1.3 * Truth(load));
}

// Steps that are all alike say nothing about the single costs: what was known of them stays.
TEST_F(CostModelTest, RemembersTheCostOfATokenThroughASteadyStream) {
  Learn(200);
  const StepLoad steady = {64, 20000};
  for (int i = 0; i < 2000; ++i) model_.Observe(steady, Truth(steady));
  const StepLoad prefill = {64 + 1000, 20000};
  EXPECT_NEAR(model_.Predict(steady), Truth(steady), 0.02 * Truth(steady));
  EXPECT_NEAR(model_.Predict(prefill), Truth(prefill), 0.3 * Truth(prefill));
}

TEST_F(CostModelTest, NeverPredictsANegativeTime) {
  for (int i = 0; i < 100; ++i) model_.Observe({i + 1, 1000}, 1e-3 / (i + 1));
  for (int64_t tokens = 0; tokens < 10000; tokens += 100) {
    EXPECT_GE(model_.Predict({tokens, 0}), 0);
  }
}

}  // namespace
}  // namespace caravan
