#include "worker/model/files/fastertransformer_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "tests/worker/model/model_folder_fixture.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class FasterTransformerFolderTest : public testing::Test {
 protected:
  void WriteConfig(const std::map<std::string, std::string>& changes = {}) {
    std::map<std::string, std::string> keys = {
        {"model_name", "llama"}, {"head_num", "2"},           {"size_per_head", "4"},
        {"inter_size", "12"},    {"num_layer", "1"},          {"vocab_size", "10"},
        {"start_id", "0"},       {"rotary_embedding", "4"},   {"layernorm_eps", "1e-05"},
        {"end_id", "1"},         {"weight_data_type", "fp16"}};
    for (const auto& [key, value] : changes) keys[key] = value;
    std::string text = "# written by a converter\n[other]\nhead_num = 99\n[llama]\n";
    for (const auto& [key, value] : keys) {
      if (!value.empty()) text += key + " = " + value + "\n";
    }
    folder_.Write("config.ini", text);
  }
  void WriteArray(const std::string& name, int64_t elements) {
    folder_.Write(name + ".bin", std::string(static_cast<size_t>(2 * elements), '\0'));
  }
  void WriteAll(int ranks) {
    WriteConfig();
    WriteArray("model.wte.weight", 80);
    WriteArray("model.lm_head.weight", 80);
    WriteArray("model.final_layernorm.weight", 8);
    WriteArray("model.layers.0.input_layernorm.weight", 8);
    WriteArray("model.layers.0.post_attention_layernorm.weight", 8);
    const std::map<std::string, int64_t> cut = {{"attention.query_key_value", 3 * 64},
                                                {"attention.dense", 64},
                                                {"mlp.gate_proj", 96},
                                                {"mlp.up_proj", 96},
                                                {"mlp.down_proj", 96}};
    for (const auto& [name, elements] : cut) {
      for (int rank = 0; rank < ranks; ++rank) {
        WriteArray("model.layers.0." + name + ".weight." + std::to_string(rank), elements / ranks);
      }
    }
  }
  std::string ConfigError(const std::map<std::string, std::string>& changes) {
    WriteConfig(changes);
    const auto config = ReadFasterTransformerConfig(folder_.path());
    EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << config.status();
    return std::string(config.status().message());
  }

  TempFolder folder_;
};

TEST_F(FasterTransformerFolderTest, ReadsTheSectionOfTheModel) {
  WriteConfig({{"max_position_embeddings", "4096"}});
  const auto config = ReadFasterTransformerConfig(folder_.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_num, 2);
  EXPECT_EQ(config->hidden_size(), 8);
  EXPECT_EQ(config->inter_size, 12);
  EXPECT_EQ(config->layernorm_eps, 1e-05);
  EXPECT_EQ(config->dtype_name, "F16");
  EXPECT_EQ(config->max_positions, 4096);
}

TEST_F(FasterTransformerFolderTest, TakesLlamasEpsilonWhereTheConverterLeftItOut) {
  WriteConfig({{"layernorm_eps", ""}});
  const auto config = ReadFasterTransformerConfig(folder_.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->layernorm_eps, 1e-06);
}

TEST_F(FasterTransformerFolderTest, NamesTheKeyThatIsWrong) {
  EXPECT_THAT(ConfigError({{"head_num", ""}}),
              HasSubstr("config.ini: [llama] head_num is missing"));
  EXPECT_THAT(ConfigError({{"head_num", "0"}}),
              HasSubstr("head_num is 0, must be a whole number in [1, "));
  EXPECT_THAT(ConfigError({{"size_per_head", "32.5"}}), HasSubstr("size_per_head is 32.5"));
  EXPECT_THAT(ConfigError({{"inter_size", "many"}}), HasSubstr("inter_size is 'many'"));
  EXPECT_THAT(ConfigError({{"vocab_size", "1e300"}}), HasSubstr("vocab_size is '1e300'"));
  EXPECT_THAT(ConfigError({{"layernorm_eps", "small"}}), HasSubstr("layernorm_eps is 'small'"));
  EXPECT_THAT(ConfigError({{"weight_data_type", "int8"}}), HasSubstr("'int8', must be fp32"));
  EXPECT_THAT(ConfigError({{"rotary_embedding", "64"}}), HasSubstr("rotary_embedding is 64"));
  EXPECT_THAT(ConfigError({{"prompt_learning_type", "2"}}), HasSubstr("prompt learning"));
}

TEST_F(FasterTransformerFolderTest, TensorsHaveTheNamesAndShapesOfHuggingFace) {
  for (const int ranks : {1, 2, 4}) {
    TempFolder fresh;
    WriteAll(ranks);
    const auto folder = FasterTransformerFolder::Open(folder_.path());
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_EQ((*folder)->ranks(), ranks);
    std::map<std::string, std::string> shapes;
    for (const TensorInfo& tensor : (*folder)->tensors()) {
      shapes[tensor.name] = tensor.ShapeText();
      int64_t elements = 0;
      for (const TensorPart& part : tensor.parts) elements += part.rows * part.cols;
      if (!tensor.parts.empty()) {
        EXPECT_EQ(2 * elements, tensor.bytes) << tensor.name;
      }
    }
    const std::map<std::string, std::string> expected = {
        {"model.embed_tokens.weight", "[10, 8]"},
        {"model.norm.weight", "[8]"},
        {"lm_head.weight", "[10, 8]"},
        {"model.layers.0.input_layernorm.weight", "[8]"},
        {"model.layers.0.post_attention_layernorm.weight", "[8]"},
        {"model.layers.0.self_attn.q_proj.weight", "[8, 8]"},
        {"model.layers.0.self_attn.k_proj.weight", "[8, 8]"},
        {"model.layers.0.self_attn.v_proj.weight", "[8, 8]"},
        {"model.layers.0.self_attn.o_proj.weight", "[8, 8]"},
        {"model.layers.0.mlp.gate_proj.weight", "[12, 8]"},
        {"model.layers.0.mlp.up_proj.weight", "[12, 8]"},
        {"model.layers.0.mlp.down_proj.weight", "[8, 12]"}};
    EXPECT_EQ(shapes, expected);
  }
}

TEST_F(FasterTransformerFolderTest, NamesTheFileThatIsWrong) {
  WriteAll(2);
  WriteArray("model.layers.0.mlp.up_proj.weight.1", 47);
  EXPECT_THAT(
      std::string(FasterTransformerFolder::Open(folder_.path()).status().message()),
      AllOf(HasSubstr("up_proj.weight.1.bin"), HasSubstr("has 94 bytes"), HasSubstr("take 96")));
  std::filesystem::remove(folder_.File("model.layers.0.mlp.up_proj.weight.1.bin"));
  const absl::Status missing = FasterTransformerFolder::Open(folder_.path()).status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr("up_proj.weight.1.bin"));
}

TEST_F(FasterTransformerFolderTest, RefusesRanksThatDoNotDivideTheModel) {
  WriteAll(1);
  for (int rank = 0; rank < 3; ++rank) {
    WriteArray("model.layers.0.attention.query_key_value.weight." + std::to_string(rank), 64);
  }
  EXPECT_THAT(std::string(FasterTransformerFolder::Open(folder_.path()).status().message()),
              HasSubstr("cut for 3 ranks"));
}

// A config.ini of fewer layers was served, with nonsense for answers.
TEST_F(FasterTransformerFolderTest, RefusesAModelWithoutItsLastLayers) {
  WriteAll(1);
  EXPECT_TRUE(FasterTransformerFolder::Open(folder_.path()).ok());
  WriteArray("model.layers.1.input_layernorm.weight", 8);
  const auto opened = FasterTransformerFolder::Open(folder_.path());
  EXPECT_TRUE(absl::IsInvalidArgument(opened.status()));
  EXPECT_THAT(std::string(opened.status().message()),
              AllOf(HasSubstr("config.ini: [llama] num_layer is 1, and the folder has more layers"),
                    HasSubstr("model.layers.1.input_layernorm.weight.bin")));
}

}  // namespace
}  // namespace caravan
