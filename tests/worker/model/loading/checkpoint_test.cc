// Reading a model folder: which files, which tensors, and what is said when they are wrong.
#include "worker/model/loading/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/worker/model/model_folder_fixture.h"
#include "worker/model/loading/load_llama.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() : config_(TinyConfig()), tensors_(RandomTensors(config_)) {}

  void WriteAll() {
    folder_.Write("config.json", config_.dump());
    folder_.Write("model.safetensors", SafetensorsBytes(tensors_));
  }
  TensorToWrite& Tensor(const std::string& name) {
    return *std::find_if(tensors_.begin(), tensors_.end(),
                         [&](const TensorToWrite& t) { return t.name == name; });
  }
  void Remove(const std::string& name) {
    std::erase_if(tensors_, [&](const TensorToWrite& t) { return t.name == name; });
  }
  absl::StatusOr<std::unique_ptr<LlamaModel>> Load(Shard shard = {}) {
    LoadOptions options;
    options.model_folder = folder_.path();
    options.shard = shard;
    options.max_batch_tokens = 16;
    options.max_logit_rows = 4;
    return LoadLlama(options);
  }
  std::string LoadError(Shard shard = {}) {
    const auto model = Load(shard);
    EXPECT_FALSE(model.ok());
    return std::string(model.status().message());
  }
  // Two files and their index; `place` may change the index.
  void WriteShards(const std::function<void(nlohmann::json&)>& change) {
    const auto middle = tensors_.begin() + static_cast<ptrdiff_t>(tensors_.size() / 2);
    nlohmann::json weight_map;
    const auto write = [&](const char* file, auto begin, auto end) {
      folder_.Write(file, SafetensorsBytes(std::vector<TensorToWrite>(begin, end)));
      for (auto it = begin; it != end; ++it) weight_map[it->name] = file;
    };
    write("a.safetensors", tensors_.begin(), middle);
    write("b.safetensors", middle, tensors_.end());
    change(weight_map);
    folder_.Write("config.json", config_.dump());
    folder_.Write("model.safetensors.index.json",
                  nlohmann::json({{"weight_map", weight_map}}).dump());
  }

  TempFolder folder_;
  nlohmann::json config_;
  std::vector<TensorToWrite> tensors_;
};

TEST_F(CheckpointTest, NamesEveryTensorThatIsMissingWrongOrUnexpected) {
  Remove("model.norm.weight");
  Tensor("lm_head.weight").shape = {64, 70};
  Tensor("model.layers.1.mlp.up_proj.weight") = {
      "model.layers.1.mlp.up_proj.weight", "I32", {96, 64}, std::string(96 * 64 * 4, '\0')};
  tensors_.push_back(
      FloatTensor("model.layers.0.self_attn.q_proj.bias", {128}, std::vector<float>(128)));
  WriteAll();
  const std::string error = LoadError();
  EXPECT_THAT(error, HasSubstr("model.safetensors: tensor model.norm.weight is missing, expected "
                               "with shape [64]"));
  EXPECT_THAT(error, HasSubstr("tensor lm_head.weight: expected shape [70, 64], found [64, 70]"));
  EXPECT_THAT(error, HasSubstr("tensor model.layers.1.mlp.up_proj.weight: expected dtype F32, F16 "
                               "or BF16, found I32"));
  EXPECT_THAT(error, HasSubstr("tensor model.layers.0.self_attn.q_proj.bias of shape [128] is no "
                               "part of the model"));
  EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 3) << error;
}

TEST_F(CheckpointTest, CutsALongListOfErrors) {
  tensors_.resize(1);
  config_["num_hidden_layers"] = 50;
  WriteAll();
  const std::string error = LoadError();
  EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 20) << error;
  EXPECT_THAT(error, HasSubstr("more"));
}

TEST_F(CheckpointTest, AllowsTheRotaryFrequenciesOfOldCheckpointsAndATiedHead) {
  tensors_.push_back(
      FloatTensor("model.layers.0.self_attn.rotary_emb.inv_freq", {16}, std::vector<float>(16)));
  config_["tie_word_embeddings"] = true;
  WriteAll();
  const auto model = Load();
  EXPECT_TRUE(model.ok()) << model.status();
}

TEST_F(CheckpointTest, ReadsShards) {
  WriteShards([](nlohmann::json&) {});
  const auto sharded = Load();
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  WriteAll();  // a single file comes first
  const auto single = Load();
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_EQ((*sharded)->fingerprint(), (*single)->fingerprint());
}

TEST_F(CheckpointTest, RefusesAnIndexThatDisagreesWithItsFiles) {
  WriteShards([](nlohmann::json& map) { map["model.norm.weight"] = "a.safetensors"; });
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("b.safetensors: tensor model.norm.weight is here"),
                                 HasSubstr("a.safetensors")));
  WriteShards([](nlohmann::json& map) { map.erase("model.norm.weight"); });
  EXPECT_THAT(LoadError(), HasSubstr("nowhere"));
  WriteShards([](nlohmann::json& map) { map["ghost"] = "a.safetensors"; });
  EXPECT_THAT(LoadError(), HasSubstr("tensor ghost is missing"));
  WriteShards([](nlohmann::json& map) { map["ghost"] = "c.safetensors"; });
  EXPECT_THAT(LoadError(), HasSubstr("c.safetensors"));
  WriteShards([](nlohmann::json& map) { map["ghost"] = "../a.safetensors"; });
  EXPECT_THAT(LoadError(), HasSubstr("must be the name of a file in the folder"));
  WriteShards([](nlohmann::json& map) { map = 7; });
  EXPECT_THAT(LoadError(), HasSubstr("weight_map"));
}

TEST_F(CheckpointTest, SaysWhichWeightsAFolderHasInstead) {
  folder_.Write("config.json", config_.dump());
  EXPECT_THAT(LoadError(), HasSubstr("neither model.safetensors nor"));
  folder_.Write("model.gguf", "x");
  EXPECT_THAT(LoadError(), HasSubstr("model.gguf, which is not read"));
}

TEST_F(CheckpointTest, NamesTheTruncatedFile) {
  WriteAll();
  const std::string whole = SafetensorsBytes(tensors_);
  folder_.Write("model.safetensors", whole.substr(0, whole.size() - 1));
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("model.safetensors"), HasSubstr("truncated")));
}

TEST_F(CheckpointTest, RefusesATensorParallelDegreeThatDoesNotDivide) {
  WriteAll();
  EXPECT_THAT(LoadError({0, 3}), HasSubstr("degree 3 does not divide the model's "
                                           "num_attention_heads, 4"));
  EXPECT_THAT(LoadError({2, 2}), HasSubstr("rank 2 of 2"));
}

TEST_F(CheckpointTest, FingerprintTellsModelsApartButNotShardings) {
  WriteAll();
  const std::string first = (*Load())->fingerprint();
  EXPECT_EQ(first.size(), 32U);
  EXPECT_EQ((*Load({1, 2}))->fingerprint(), first);
  Tensor("model.norm.weight").data[5] ^= 1;
  WriteAll();
  const std::string other_weight = (*Load())->fingerprint();
  EXPECT_NE(other_weight, first);
  config_["rms_norm_eps"] = 1e-6;
  WriteAll();
  EXPECT_NE((*Load())->fingerprint(), other_weight);
  LoadOptions options;
  options.model_folder = folder_.path();
  options.dtype = "bfloat16";
  EXPECT_NE((*LoadLlama(options))->fingerprint(), (*Load())->fingerprint());
}

TEST_F(CheckpointTest, NamesTheFlagThatIsWrong) {
  WriteAll();
  const auto error = [&](auto change) {
    LoadOptions options;
    options.model_folder = folder_.path();
    change(options);
    return std::string(LoadLlama(options).status().message());
  };
  EXPECT_THAT(error([](LoadOptions& o) { o.dtype = "int8"; }), HasSubstr("--dtype is int8"));
  EXPECT_THAT(error([](LoadOptions& o) { o.load_format = "gguf"; }),
              HasSubstr("--load_format is gguf"));
  EXPECT_THAT(error([](LoadOptions& o) { o.max_context_tokens = 257; }),
              HasSubstr("--max_context_tokens is 257, the model is made for at most 256"));
  EXPECT_THAT(error([](LoadOptions& o) { o.model_folder += "/none"; }), HasSubstr("/none"));
}

TEST_F(CheckpointTest, SaysHowMuchMemoryIsMissingAndWhatToChange) {
  config_["hidden_size"] = 131072;
  config_["intermediate_size"] = 1048576;
  config_["num_hidden_layers"] = 1024;
  folder_.Write("config.json", config_.dump());
  LoadOptions options;
  options.model_folder = folder_.path();
  options.load_format = "dummy";
  const absl::Status status = LoadLlama(options).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("the weights of rank 0 of 1"), HasSubstr("PiB"),
                    HasSubstr("--tensor_parallel")));
}

}  // namespace
}  // namespace caravan
