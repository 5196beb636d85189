#include "worker/model/sharding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

ModelConfig Config(int32_t heads, int32_t kv_heads, int32_t intermediate, int32_t vocab) {
  ModelConfig config;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.intermediate_size = intermediate;
  config.vocab_size = vocab;
  return config;
}

std::string Error(const ModelConfig& config, Shard shard) {
  const auto layout = MakeShardLayout(config, shard);
  EXPECT_TRUE(absl::IsInvalidArgument(layout.status()));
  return std::string(layout.status().message());
}

TEST(ShardLayout, CoversEverythingOnce) {
  for (const int32_t world : {1, 2, 4, 8}) {
    int64_t heads = 0;
    int64_t intermediate = 0;
    int64_t vocab = 0;
    for (int32_t rank = 0; rank < world; ++rank) {
      const auto layout = MakeShardLayout(Config(16, 8, 64, 1001), {rank, world});
      ASSERT_TRUE(layout.ok()) << layout.status();
      EXPECT_EQ(layout->q_heads.begin, heads);
      EXPECT_EQ(layout->intermediate.begin, intermediate);
      EXPECT_EQ(layout->vocab.begin, vocab);
      heads += layout->q_heads.count;
      intermediate += layout->intermediate.count;
      vocab += layout->vocab.count;
      EXPECT_EQ(layout->padded_vocab, (1001 + world - 1) / world * world);
    }
    EXPECT_EQ(heads, 16);
    EXPECT_EQ(intermediate, 64);
    EXPECT_GE(vocab, 1001);
    EXPECT_LT(vocab, 1001 + world);
  }
}

TEST(ShardLayout, GivesEachRankTheKvHeadsOfItsQueryHeads) {
  for (const int32_t kv_heads : {1, 2, 4, 8, 16}) {
    for (const int32_t world : {1, 2, 4, 8, 16}) {
      for (int32_t rank = 0; rank < world; ++rank) {
        const auto layout = MakeShardLayout(Config(16, kv_heads, 64, 100), {rank, world});
        ASSERT_TRUE(layout.ok()) << layout.status();
        const int64_t group = 16 / kv_heads;  // query heads of one KV head
        EXPECT_EQ(layout->kv_heads.begin, layout->q_heads.begin / group);
        EXPECT_EQ(layout->kv_heads.begin + layout->kv_heads.count - 1,
                  (layout->q_heads.begin + layout->q_heads.count - 1) / group);
      }
    }
  }
}

TEST(ShardLayout, NamesWhatDoesNotDivide) {
  EXPECT_THAT(Error(Config(12, 4, 64, 100), {0, 8}),
              testing::HasSubstr("degree 8 does not divide the model's num_attention_heads, 12"));
  EXPECT_THAT(Error(Config(16, 4, 66, 100), {0, 4}), testing::HasSubstr("intermediate_size, 66"));
  EXPECT_THAT(Error(Config(12, 4, 60, 100), {0, 6}),
              testing::HasSubstr("neither divides num_key_value_heads, 4"));
  EXPECT_THAT(Error(Config(4, 4, 4, 100), {4, 4}), testing::HasSubstr("rank 4 of 4"));
  EXPECT_THAT(Error(Config(4, 4, 4, 100), {0, 0}), testing::HasSubstr("is not a rank"));
}

}  // namespace
}  // namespace caravan
