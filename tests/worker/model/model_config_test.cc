#include "worker/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/model_folder_fixture.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<ModelConfig> Parse(const nlohmann::json& config) {
  return ParseModelConfig(config.dump(), "config.json");
}

absl::StatusOr<ModelConfig> ParseWith(const char* field, const nlohmann::json& value) {
  nlohmann::json config = TinyConfig();
  config[field] = value;
  return Parse(config);
}

std::string ErrorWith(const char* field, const nlohmann::json& value) {
  const auto config = ParseWith(field, value);
  EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << field << " = " << value;
  return std::string(config.status().message());
}

std::string ErrorOfText(const std::string& text) {
  return std::string(ParseModelConfig(text, "config.json").status().message());
}

TEST(ModelConfig, ReadsAllFields) {
  nlohmann::json json = TinyConfig();
  json["attention_bias"] = true;
  json["mlp_bias"] = true;
  json["tie_word_embeddings"] = true;
  json["rope_theta"] = 500000.0;
  json["bos_token_id"] = 1;
  json["torch_dtype"] = "bfloat16";
  const auto config = Parse(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->intermediate_size, 96);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_size, 32);
  EXPECT_EQ(config->vocab_size, 70);
  EXPECT_EQ(config->max_positions, 256);
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-5F);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->mlp_bias);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_EQ(config->dtype, DType::kBFloat16);
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
}

TEST(ModelConfig, FillsInWhatHuggingFaceLeavesOut) {
  nlohmann::json json = TinyConfig();
  for (const char* field :
       {"num_key_value_heads", "head_dim", "torch_dtype", "eos_token_id", "rms_norm_eps"}) {
    json.erase(field);
  }
  json["hidden_size"] = 256;
  json["rope_scaling"] = nullptr;
  const auto config = Parse(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->head_size, 64);
  EXPECT_FALSE(config->dtype.has_value());
  EXPECT_TRUE(config->eos_token_ids.empty());
  EXPECT_FALSE(config->bos_token_id.has_value());
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-6F);
  EXPECT_EQ(config->rope.type, RopeType::kDefault);
}

TEST(ModelConfig, ReadsEveryRopeTypeUnderItsOldAndNewName) {
  const auto scaled = [](const nlohmann::json& scaling) {
    const auto config = ParseWith("rope_scaling", scaling);
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() ? config->rope : RopeConfig();
  };
  EXPECT_EQ(scaled({{"type", "linear"}, {"factor", 2.0}}).type, RopeType::kLinear);
  EXPECT_EQ(scaled({{"rope_type", "dynamic"}, {"factor", 2}}).type, RopeType::kDynamic);
  EXPECT_EQ(scaled({{"rope_type", "default"}}).type, RopeType::kDefault);
  const RopeConfig llama3 = scaled({{"rope_type", "llama3"},
                                    {"factor", 8.0},
                                    {"low_freq_factor", 1.0},
                                    {"high_freq_factor", 4.0},
                                    {"original_max_position_embeddings", 8192}});
  EXPECT_EQ(llama3.type, RopeType::kLlama3);
  EXPECT_EQ(llama3.original_max_positions, 8192);
  const RopeConfig yarn = scaled({{"type", "yarn"},
                                  {"factor", 4.0},
                                  {"beta_fast", 16},
                                  {"attention_factor", 0.5},
                                  {"mscale", 0.7},
                                  {"mscale_all_dim", 0.9},
                                  {"truncate", false}});
  EXPECT_EQ(yarn.type, RopeType::kYarn);
  EXPECT_EQ(yarn.original_max_positions, 256) << "falls back to max_position_embeddings";
  EXPECT_EQ(yarn.beta_fast, 16);
  EXPECT_EQ(yarn.beta_slow, 1);
  EXPECT_EQ(yarn.attention_factor, 0.5);
  EXPECT_EQ(yarn.mscale, 0.7);
  EXPECT_EQ(yarn.mscale_all_dim, 0.9);
  EXPECT_FALSE(yarn.truncate);
}

TEST(ModelConfig, ReadsRopeParametersOfTransformers5) {
  const auto config = ParseWith(
      "rope_parameters", {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 20000.0}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.type, RopeType::kLinear);
  EXPECT_EQ(config->rope.theta, 20000.0);
  EXPECT_EQ(config->DefaultContextTokens(), 1024);
}

TEST(ModelConfig, NamesAnUnknownArchitectureAndWhatIsSupported) {
  const std::string error = ErrorWith("architectures", {"MistralForCausalLM"});
  EXPECT_THAT(error, HasSubstr("MistralForCausalLM"));
  EXPECT_THAT(error, HasSubstr("LlamaForCausalLM"));
  ErrorWith("architectures", nullptr);
  ErrorWith("architectures", "LlamaForCausalLM");
  ErrorWith("architectures", nlohmann::json::array({7}));
}

TEST(ModelConfig, RefusesAbsurdNumbersByFieldValueAndLimit) {
  for (const char* field :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "head_dim", "max_position_embeddings"}) {
    for (const nlohmann::json& value :
         {nlohmann::json(0), nlohmann::json(-1), nlohmann::json(1e18),
          nlohmann::json(1000000000000000000), nlohmann::json(18446744073709551615U),
          nlohmann::json("64"), nlohmann::json::array(), nlohmann::json(true)}) {
      EXPECT_THAT(ErrorWith(field, value), HasSubstr(field)) << value;
    }
  }
  EXPECT_THAT(ErrorWith("hidden_size", -5), HasSubstr("-5, must be in [1, 131072]"));
  EXPECT_THAT(ErrorWith("rms_norm_eps", -1.0), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(ErrorWith("rope_theta", 0), HasSubstr("rope_theta"));
  EXPECT_THAT(ErrorWith("torch_dtype", "float64"), HasSubstr("bfloat16"));
  EXPECT_THAT(ErrorWith("hidden_act", "gelu"), HasSubstr("gelu"));
  EXPECT_THAT(ErrorWith("tie_word_embeddings", 1), HasSubstr("true or false"));
  EXPECT_THAT(ErrorWith("eos_token_id", 70), HasSubstr("[0, 69]"));
  EXPECT_THAT(ErrorWith("eos_token_id", {1, -1}), HasSubstr("eos_token_id"));
  EXPECT_THAT(ErrorWith("quantization_config", {{"bits", 4}}), HasSubstr("quantized"));
}

TEST(ModelConfig, RefusesHeadsThatDoNotFit) {
  EXPECT_THAT(ErrorWith("num_key_value_heads", 3), HasSubstr("multiple of num_key_value_heads"));
  EXPECT_THAT(ErrorWith("head_dim", 33), HasSubstr("even and in [32, 256]"));
  EXPECT_THAT(ErrorWith("head_dim", 30), HasSubstr("even and in [32, 256]"));
  EXPECT_THAT(ErrorWith("head_dim", 258), HasSubstr("even and in [32, 256]"));
  nlohmann::json json = TinyConfig();
  json.erase("head_dim");
  json["num_attention_heads"] = 6;
  EXPECT_THAT(std::string(Parse(json).status().message()), HasSubstr("hidden_size"));
}

TEST(ModelConfig, RefusesWrongRopeScaling) {
  EXPECT_THAT(ErrorWith("rope_scaling", "linear"), HasSubstr("rope_scaling"));
  EXPECT_THAT(ErrorWith("rope_scaling", {{"type", "linear"}}), HasSubstr("rope_scaling.factor"));
  EXPECT_THAT(ErrorWith("rope_scaling", {{"rope_type", "longrope"}}), HasSubstr("longrope"));
  EXPECT_THAT(ErrorWith("rope_scaling", {{"type", "linear"}, {"factor", 0.5}}),
              HasSubstr("0.5, must be in [1"));
  EXPECT_THAT(ErrorWith("rope_scaling", {{"rope_type", "llama3"},
                                         {"factor", 8.0},
                                         {"low_freq_factor", 4.0},
                                         {"high_freq_factor", 4.0},
                                         {"original_max_position_embeddings", 8192}}),
              HasSubstr("must be above low_freq_factor"));
}

TEST(ModelConfig, RefusesWhatIsNoJsonObject) {
  EXPECT_THAT(ErrorOfText(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOfText("{\"hidden_size\": "), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOfText("\xff\xfe{}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOfText("[1, 2]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(ErrorOfText("{\"a\": 1, \"a\": 2}"), HasSubstr("'a' occurs twice"));
  EXPECT_THAT(ErrorOfText("{\"a\": " + std::string(100000, '[') + std::string(100000, ']') + "}"),
              HasSubstr("levels deep"));
  EXPECT_THAT(ErrorOfText(std::string(1000000, '[')), testing::Not(testing::IsEmpty()));
}

TEST(ModelConfig, AddsTheStopIdsOfGenerationConfig) {
  TempFolder folder;
  folder.Write("config.json", TinyConfig().dump());
  folder.Write("generation_config.json", R"({"eos_token_id": [5, 2, 3]})");
  const auto config = LoadModelConfig(folder.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2, 3, 5));
  folder.Write("generation_config.json", R"({"eos_token_id": "x"})");
  EXPECT_THAT(std::string(LoadModelConfig(folder.path()).status().message()),
              HasSubstr("generation_config.json: eos_token_id"));
}

TEST(ModelConfig, NamesAFolderOrFileThatIsMissing) {
  TempFolder folder;
  const absl::Status no_folder = LoadModelConfig(folder.File("none")).status();
  EXPECT_TRUE(absl::IsNotFound(no_folder));
  EXPECT_THAT(std::string(no_folder.message()), HasSubstr("/none does not exist"));
  const absl::Status no_file = LoadModelConfig(folder.path()).status();
  EXPECT_TRUE(absl::IsNotFound(no_file));
  EXPECT_THAT(std::string(no_file.message()), HasSubstr("has neither config.json nor config.ini"));
}

}  // namespace
}  // namespace caravan
