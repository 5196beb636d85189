#include "worker/model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace caravan {
namespace {

constexpr size_t kSampled[] = {0, 1, 5, 9, 12, 16, 20, 25, 31};  // of 32 frequencies

RopeConfig Scaled(RopeType type, double factor) {
  RopeConfig rope;
  rope.type = type;
  rope.factor = factor;
  return rope;
}

ModelConfig DynamicModel() {
  ModelConfig config;
  config.head_size = 64;
  config.max_positions = 256;
  config.rope = Scaled(RopeType::kDynamic, 2);
  return config;
}

// Numbers of transformers 4.57.3's modeling_rope_utils in float32. The one operation that may round
// otherwise is the power, by a unit in the last place; the few steps after it pass that on.
void ExpectFrequencies(const RopeConfig& rope, int64_t sequence_tokens,
                       const std::vector<float>& expected, int32_t max_positions = 256) {
  const std::vector<float> inverse =
      RopeInverseFrequencies(rope, 64, max_positions, sequence_tokens);
  ASSERT_EQ(inverse.size(), 32U);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(inverse[kSampled[i]], expected[i], 8 * 0x1p-24 * expected[i]) << kSampled[i];
  }
}

TEST(RopeTable, HasTheFrequenciesOfTheDefault) {
  ExpectFrequencies(RopeConfig(), 10,
                    {1.0F, 0.749894202F, 0.237137362F, 0.0749894157F, 0.0316227786F, 0.00999999978F,
                     0.00316227786F, 0.000749894185F, 0.00013335215F});
}

TEST(RopeTable, DividesByTheFactorOfLinearScaling) {
  ExpectFrequencies(Scaled(RopeType::kLinear, 4), 10,
                    {0.25F, 0.18747355F, 0.0592843406F, 0.0187473539F, 0.00790569466F,
                     0.00249999994F, 0.000790569466F, 0.000187473546F, 3.33380376e-05F});
}

TEST(RopeTable, RaisesTheBaseOfDynamicScalingWithTheSequence) {
  const RopeConfig rope = Scaled(RopeType::kDynamic, 2);
  ExpectFrequencies(rope, 200,
                    {1.0F, 0.749894202F, 0.237137362F, 0.0749894157F, 0.0316227786F, 0.00999999978F,
                     0.00316227786F, 0.000749894185F, 0.00013335215F});
  ExpectFrequencies(rope, 257,
                    {1.0F, 0.74970597F, 0.236839905F, 0.0748201832F, 0.0315276571F, 0.00995991379F,
                     0.00314644049F, 0.000745202648F, 0.000132318397F});
  ExpectFrequencies(rope, 500,
                    {1.0F, 0.72452563F, 0.199649796F, 0.0550153628F, 0.0209240299F, 0.00576581107F,
                     0.00158882304F, 0.000317208207F, 4.5884608e-05F});
}

TEST(RopeTable, ScalesTheLowFrequenciesOfLlama3) {
  RopeConfig rope = Scaled(RopeType::kLlama3, 8);
  rope.original_max_positions = 512;
  ExpectFrequencies(rope, 10,
                    {1.0F, 0.749894202F, 0.237137362F, 0.0749894157F, 0.0184966773F, 0.00124999997F,
                     0.000395284733F, 9.37367731e-05F, 1.66690188e-05F});
  EXPECT_EQ(RopeAttentionFactor(rope), 1.0F);
}

TEST(RopeTable, BlendsTheFrequenciesOfYarn) {
  RopeConfig rope = Scaled(RopeType::kYarn, 4);
  rope.original_max_positions = 256;
  ExpectFrequencies(rope, 10,
                    {1.0F, 0.706631064F, 0.168732345F, 0.0360526033F, 0.00973008573F,
                     0.00249999994F, 0.000790569466F, 0.000187473546F, 3.33380376e-05F});
  EXPECT_FLOAT_EQ(RopeAttentionFactor(rope), 1.138629436111989F);
}

TEST(RopeTable, TakesAllParametersOfYarn) {
  RopeConfig rope = Scaled(RopeType::kYarn, 8);
  rope.original_max_positions = 128;
  rope.beta_fast = 16;
  rope.beta_slow = 2;
  rope.mscale = 0.7;
  rope.mscale_all_dim = 0.9;
  rope.truncate = false;
  ExpectFrequencies(rope, 10,
                    {1.0F, 0.735297561F, 0.117640808F, 0.00937367696F, 0.00395284733F,
                     0.00124999997F, 0.000395284733F, 9.37367731e-05F, 1.66690188e-05F});
  EXPECT_FLOAT_EQ(RopeAttentionFactor(rope), 0.9649674935890178F);
  rope.attention_factor = 0.5;
  EXPECT_EQ(RopeAttentionFactor(rope), 0.5F);
}

TEST(RopeTable, PutsCosinesBeforeSinesAndScalesBoth) {
  ModelConfig config;
  config.head_size = 64;
  config.max_positions = 256;
  config.rope = Scaled(RopeType::kYarn, 4);
  config.rope.original_max_positions = 256;
  config.rope.attention_factor = 2;
  RopeTable table(config, 100, 10);
  const std::vector<float> inverse = RopeInverseFrequencies(config.rope, 64, 256, 1);
  EXPECT_EQ(table.view().rows, 100) << "only dynamic scaling needs scratch rows";
  const auto* row = static_cast<const float*>(table.view().row(table.RowFor(37, 100)));
  for (size_t i = 0; i < 32; ++i) {
    const double angle = static_cast<double>(37.0F * inverse[i]);
    EXPECT_FLOAT_EQ(row[i], 2 * static_cast<float>(std::cos(angle)));
    EXPECT_FLOAT_EQ(row[32 + i], 2 * static_cast<float>(std::sin(angle)));
  }
}

// The cosine of the second frequency at `position`, with the base of so many tokens.
float CosineAt(const ModelConfig& config, int64_t position, int64_t sequence_tokens) {
  const float angle = static_cast<float>(position) *
                      RopeInverseFrequencies(config.rope, 64, 256, sequence_tokens)[1];
  return static_cast<float>(std::cos(static_cast<double>(angle)));
}

TEST(RopeTable, FollowsTheRuleOfDynamicScalingForPromptsAndGeneratedTokens) {
  const ModelConfig config = DynamicModel();
  RopeTable table(config, 512, 4);
  EXPECT_EQ(table.max_shareable_prompt_tokens(), 256);
  const auto cosine = [&](int64_t position, int64_t prompt_tokens) {
    table.BeginStep();
    const int32_t row = table.RowFor(position, prompt_tokens);
    return static_cast<const float*>(table.view().row(row))[1];
  };
  EXPECT_EQ(cosine(100, 256), CosineAt(config, 100, 1)) << "a prompt within the original length";
  EXPECT_EQ(cosine(100, 400), CosineAt(config, 100, 400)) << "a longer prompt's own length";
  EXPECT_EQ(cosine(399, 400), CosineAt(config, 399, 400)) << "to its last token";
  EXPECT_EQ(cosine(400, 400), CosineAt(config, 400, 401)) << "then each token's own length";
  EXPECT_EQ(cosine(255, 100), CosineAt(config, 255, 1)) << "the last plain generated token";
  EXPECT_EQ(cosine(256, 100), CosineAt(config, 256, 257)) << "the first stretched one";
}

TEST(RopeTable, KeepsTheScratchRowsOfSeveralPromptsInOneStep) {
  const ModelConfig config = DynamicModel();
  RopeTable table(config, 512, 4);
  for (int step = 0; step < 3; ++step) {
    table.BeginStep();
    std::vector<int32_t> rows;
    for (const int64_t prompt_tokens : {300, 400, 300, 500}) {
      rows.push_back(table.RowFor(200, prompt_tokens));
    }
    const auto cosine = [&](size_t i) {
      return static_cast<const float*>(table.view().row(rows[i]))[1];
    };
    EXPECT_EQ(cosine(0), CosineAt(config, 200, 300));
    EXPECT_EQ(cosine(1), CosineAt(config, 200, 400));
    EXPECT_EQ(cosine(2), CosineAt(config, 200, 300));
    EXPECT_EQ(cosine(3), CosineAt(config, 200, 500));
  }
}

}  // namespace
}  // namespace caravan
