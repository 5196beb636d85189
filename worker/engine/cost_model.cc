#include "worker/engine/cost_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace caravan {
namespace {

constexpr double kFade = 0.98;       // a step's weight halves in 34 steps
constexpr double kPull = 1e-3;       // weight of the previous fit, in observations
constexpr int64_t kWarmUp = 8;       // observations before the first prediction
constexpr double kOutlier = 3;       // times the prediction
constexpr double kTokenScale = 256;  // brings the terms to the same size
constexpr double kContextScale = 16384;
constexpr int32_t kUnlimited = 1 << 30;

}  // namespace

CostModel::Vector CostModel::Terms(const StepLoad& load) {
  return {1, static_cast<double>(load.tokens) / kTokenScale,
          static_cast<double>(load.context_tokens) / kContextScale};
}

void CostModel::Observe(const StepLoad& load, double seconds) {
  if (observations_ >= kWarmUp) seconds = std::min(seconds, kOutlier * Predict(load) + 1e-6);
  ++observations_;
  const Vector terms = Terms(load);
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j < kTerms; ++j) {
      moments_[i][j] = moments_[i][j] * kFade + terms[i] * terms[j];
    }
    targets_[i] = targets_[i] * kFade + terms[i] * seconds;
  }
  Solve();
}

// Minimizes the faded squared error + kPull · |weights - previous|², over weights ≥ 0: coordinate
// descent from the previous fit, which is close.
void CostModel::Solve() {
  const Vector previous = weights_;
  for (int round = 0; round < 50; ++round) {
    double moved = 0;
    for (int i = 0; i < kTerms; ++i) {
      double rest = targets_[i] + kPull * previous[i];
      for (int j = 0; j < kTerms; ++j) {
        if (j != i) rest -= moments_[i][j] * weights_[j];
      }
      const double weight = std::max(0.0, rest / (moments_[i][i] + kPull));
      moved = std::max(moved, std::abs(weight - weights_[i]));
      weights_[i] = weight;
    }
    if (moved < 1e-9) break;
  }
}

double CostModel::Predict(const StepLoad& load) const {
  if (observations_ < kWarmUp) return 0;
  const Vector terms = Terms(load);
  double seconds = 0;
  for (int i = 0; i < kTerms; ++i) seconds += weights_[i] * terms[i];
  return seconds;
}

int32_t CostModel::TokensWithin(double seconds, const StepLoad& load) const {
  if (observations_ < kWarmUp) return kUnlimited;
  const double left = seconds - Predict(load);
  if (left <= 0) return 0;
  const double per_token = weights_[1] / kTokenScale;
  if (left >= per_token * kUnlimited) return kUnlimited;
  return static_cast<int32_t>(left / per_token);
}

}  // namespace caravan
