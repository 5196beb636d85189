// What lands in a rank's weights: slices, fused matrices, dtypes, dummy numbers.
#include "worker/model/loading/weight_loader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>

#include "tests/worker/model/model_folder_fixture.h"
#include "worker/model/loading/dummy_weights.h"
#include "worker/model/number_format.h"

namespace caravan {
namespace {

// All elements of a weight as floats.
std::vector<float> Floats(const Weight& weight) {
  std::vector<float> values(static_cast<size_t>(weight.rows * weight.cols));
  ConvertElements(weight.buffer.data(), weight.dtype, values.data(), DType::kFloat32,
                  static_cast<int64_t>(values.size()));
  return values;
}

class WeightLoaderTest : public testing::Test {
 protected:
  WeightLoaderTest() : json_(TinyConfig()) {
    json_["attention_bias"] = true;
    json_["mlp_bias"] = true;
    WriteModel();
  }

  void WriteModel() {
    folder_.Write("config.json", json_.dump());
    folder_.Write("model.safetensors", SafetensorsBytes(RandomTensors(json_)));
    config_ = *LoadModelConfig(folder_.path());
  }

  // A rank's weights from the folder, or dummy ones.
  LlamaWeights Load(Shard shard, DType dtype = DType::kFloat32, bool dummy = false) {
    layout_ = *MakeShardLayout(config_, shard);
    std::vector<WeightPiece> pieces;
    LlamaWeights weights = *AllocateLlamaWeights(config_, layout_, dtype, &pieces);
    const LoadThreads threads = {3, [this](int64_t done, int64_t total) {
                                   EXPECT_GT(done, done_bytes_);
                                   done_bytes_ = done;
                                   total_bytes_ = total;
                                 }};
    done_bytes_ = 0;
    if (dummy) {
      EXPECT_TRUE(FillDummyPieces(pieces, threads).ok());
    } else {
      const Checkpoint checkpoint = *Checkpoint::Open(folder_.path());
      EXPECT_TRUE(CheckTensors(checkpoint, pieces, {}).ok());
      EXPECT_TRUE(LoadPieces(checkpoint, pieces, threads).ok());
    }
    EXPECT_EQ(done_bytes_, total_bytes_);
    return weights;
  }

  // Element (row, col) of a tensor of `cols` columns as RandomTensors wrote it.
  static float Written(const std::string& name, int64_t row, int64_t col, int64_t cols) {
    float value = 0;
    FillDummy(DummyKey(name), row * cols + col, DType::kFloat32, 1, &value);
    return 10 * value;
  }

  TempFolder folder_;
  nlohmann::json json_;
  ModelConfig config_;
  ShardLayout layout_;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
};

TEST_F(WeightLoaderTest, PutsEachRanksSlicesIntoFusedMatrices) {
  const std::string prefix = "model.layers.1.";
  for (const int32_t rank : {0, 1}) {
    const LlamaWeights weights = Load({rank, 2});
    const LlamaLayer& layer = weights.layers[1];
    const auto at = [](const Weight& w, int64_t r, int64_t c) {
      return Floats(w)[static_cast<size_t>(r * w.cols + c)];
    };
    // Two query heads and one KV head of 32 a rank.
    EXPECT_EQ(layer.qkv.rows, 128);
    EXPECT_EQ(at(layer.qkv, 5, 7),
              Written(prefix + "self_attn.q_proj.weight", rank * 64 + 5, 7, 64));
    EXPECT_EQ(at(layer.qkv, 64 + 5, 7),
              Written(prefix + "self_attn.k_proj.weight", rank * 32 + 5, 7, 64));
    EXPECT_EQ(at(layer.qkv, 96 + 5, 7),
              Written(prefix + "self_attn.v_proj.weight", rank * 32 + 5, 7, 64));
    EXPECT_EQ(at(layer.qkv_bias, 0, 64 + 5),
              Written(prefix + "self_attn.k_proj.bias", 0, rank * 32 + 5, 64));
    EXPECT_EQ(layer.o.cols, 64);
    EXPECT_EQ(at(layer.o, 9, 3),
              Written(prefix + "self_attn.o_proj.weight", 9, rank * 64 + 3, 128));
    EXPECT_EQ(at(layer.gate_up, 48 + 2, 1),
              Written(prefix + "mlp.up_proj.weight", rank * 48 + 2, 1, 64));
    EXPECT_EQ(at(layer.down, 63, 47),
              Written(prefix + "mlp.down_proj.weight", 63, rank * 48 + 47, 96));
    EXPECT_EQ(layer.o_bias.vector().empty(), rank == 1) << "the sum over ranks has it once";
    EXPECT_EQ(layer.down_bias.vector().empty(), rank == 1);
    EXPECT_EQ(at(weights.lm_head, 34, 63), Written("lm_head.weight", rank * 35 + 34, 63, 64));
    EXPECT_EQ(at(layer.input_norm, 0, 3), 1 + Written(prefix + "input_layernorm.weight", 0, 3, 64));
  }
}

TEST_F(WeightLoaderTest, ReplicatesKvHeadsAndPadsTheVocabularyWithZeros) {
  const LlamaWeights weights = Load({3, 4});
  EXPECT_EQ(layout_.kv_heads.begin, 1) << "ranks 2 and 3 share the second KV head";
  EXPECT_EQ(layout_.kv_heads.count, 1);
  const std::vector<float> qkv = Floats(weights.layers[0].qkv);
  EXPECT_EQ(qkv[static_cast<size_t>(32 * 64)],
            Written("model.layers.0.self_attn.k_proj.weight", 32, 0, 64));
  EXPECT_EQ(layout_.padded_vocab, 72);  // 70 tokens
  const std::vector<float> embedding = Floats(weights.embedding);
  EXPECT_EQ(embedding[15 * 64], Written("model.embed_tokens.weight", 54 + 15, 0, 64));
  for (size_t i = 16 * 64; i < 18 * 64; ++i) EXPECT_EQ(embedding[i], 0);
}

TEST_F(WeightLoaderTest, ConvertsToTheWeightDtype) {
  const std::vector<float> exact = Floats(Load({0, 1}).layers[0].down);
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const std::vector<float> rounded = Floats(Load({0, 1}, dtype).layers[0].down);
    const float unit = dtype == DType::kFloat16 ? 0x1p-11F : 0x1p-8F;
    bool differs = false;
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_NEAR(rounded[i], exact[i], unit * std::abs(exact[i]) + 0x1p-25F);
      differs |= rounded[i] != exact[i];
    }
    EXPECT_TRUE(differs);
  }
}

TEST_F(WeightLoaderTest, CountsTheBytesItAllocates) {
  for (const bool tied : {false, true}) {
    json_["tie_word_embeddings"] = tied;
    WriteModel();
    const int64_t expected =
        WeightBytes(config_, *MakeShardLayout(config_, {0, 2}), DType::kBFloat16);
    Load({0, 2}, DType::kBFloat16);
    EXPECT_EQ(total_bytes_, expected);
  }
}

TEST_F(WeightLoaderTest, MakesTheSameDummyModelForEverySharding) {
  const LlamaWeights whole = Load({0, 1}, DType::kFloat32, true);
  const std::vector<float> whole_down = Floats(whole.layers[1].down);
  const std::vector<float> whole_qkv = Floats(whole.layers[1].qkv);
  for (const int32_t rank : {0, 1}) {
    const LlamaWeights part = Load({rank, 2}, DType::kFloat32, true);
    const std::vector<float> down = Floats(part.layers[1].down);
    for (size_t row = 0; row < 64; ++row) {
      for (size_t col = 0; col < 48; ++col) {
        EXPECT_EQ(down[row * 48 + col],
                  whole_down[row * 96 + static_cast<size_t>(rank) * 48 + col]);
      }
    }
    const std::vector<float> qkv = Floats(part.layers[1].qkv);
    for (size_t i = 0; i < 32 * 64; ++i) {  // values: the last head of each
      EXPECT_EQ(qkv[96 * 64 + i], whole_qkv[(192 + static_cast<size_t>(rank) * 32) * 64 + i]);
    }
  }
  for (const float value : Floats(whole.layers[0].input_norm)) EXPECT_EQ(value, 1);
}

TEST(DummyWeights, AreNormalWithDeviation0_02AndDifferByName) {
  constexpr int64_t kCount = 1 << 20;
  std::vector<float> a(kCount);
  std::vector<float> b(kCount);
  FillDummy(DummyKey("a"), 0, DType::kFloat32, kCount, a.data());
  FillDummy(DummyKey("b"), 0, DType::kFloat32, kCount, b.data());
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  double product = 0;
  for (size_t i = 0; i < kCount; ++i) {
    const double x = a[i] / 0.02;
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    product += x * b[i] / 0.02;
  }
  // Five deviations of each mean over n draws: 1, √2, √96 and 1 over √n.
  const double unit = 5 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(sum / kCount, 0, unit);
  EXPECT_NEAR(squares / kCount, 1, unit * std::sqrt(2.0));
  EXPECT_NEAR(fourth / kCount, 3, unit * std::sqrt(96.0));
  EXPECT_NEAR(product / kCount, 0, unit);
}

TEST(DummyWeights, AnElementDoesNotDependOnWhereAFillBegins) {
  std::vector<float> whole(2000);
  FillDummy(3, 0, DType::kFloat32, 2000, whole.data());
  for (const int64_t first : {0, 1, 7, 8, 505, 1023}) {
    std::vector<float> part(700);
    FillDummy(3, first, DType::kFloat32, 700, part.data());
    for (size_t i = 0; i < part.size(); ++i) {
      ASSERT_EQ(part[i], whole[static_cast<size_t>(first) + i]) << first << " " << i;
    }
  }
}

}  // namespace
}  // namespace caravan
