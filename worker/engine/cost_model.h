// Predicts how long a step takes, so that a time target can be turned into tokens.
#pragma once

#include <array>
#include <cstdint>

namespace caravan {

// What a step is made of.
struct StepLoad {
  int64_t tokens = 0;          // rows of the batch
  int64_t context_tokens = 0;  // KV positions read, summed over its sequences
};

// seconds = fixed + per_token · tokens + per_context_token · context_tokens, fitted online by least
// squares over the recent steps (older ones fade), pulled towards the previous fit where the recent
// steps say nothing (a steady stream of decodes does not vary its tokens). Not thread-safe.
class CostModel {
 public:
  // A step of this load took so long. An outlier counts for at most a few times the prediction.
  void Observe(const StepLoad& load, double seconds);

  // 0 before there are enough observations.
  double Predict(const StepLoad& load) const;

  // How many tokens can be added to `load` (each sequence's context aside) so that the step stays
  // within `seconds`: 0 where it does not stay within already. Unlimited (2^30) while unknown.
  int32_t TokensWithin(double seconds, const StepLoad& load) const;

 private:
  static constexpr int kTerms = 3;
  using Vector = std::array<double, kTerms>;

  static Vector Terms(const StepLoad& load);
  void Solve();

  std::array<Vector, kTerms> moments_{};  // faded sum of terms · termsᵀ
  Vector targets_{};                      // faded sum of terms · seconds
  Vector weights_{};
  int64_t observations_ = 0;
};

}  // namespace caravan
