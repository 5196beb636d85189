#include "tests/worker/model/model_folder_fixture.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/status.h"
#include "worker/model/loading/dummy_weights.h"

namespace caravan {

TempFolder::TempFolder() : path_(testing::TempDir() + "/caravan_model_XXXXXX") {
  CARAVAN_CHECK(mkdtemp(path_.data()) != nullptr, path_);
}

TempFolder::~TempFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

void TempFolder::Write(const std::string& name, const std::string& content) const {
  std::ofstream file(File(name), std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  CARAVAN_CHECK(file.good(), name);
}

TensorToWrite FloatTensor(const std::string& name, std::vector<int64_t> shape,
                          const std::vector<float>& values) {
  std::string data(values.size() * sizeof(float), '\0');
  std::memcpy(data.data(), values.data(), data.size());
  return {name, "F32", std::move(shape), std::move(data)};
}

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  return bytes + header + data;
}

std::string SafetensorsBytes(const std::vector<TensorToWrite>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const TensorToWrite& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.data;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsBytes(header.dump(), data);
}

nlohmann::json TinyConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 32},
          {"vocab_size", 70},
          {"max_position_embeddings", 256},
          {"rms_norm_eps", 1e-5},
          {"torch_dtype", "float32"},
          {"eos_token_id", 2}};
}

std::vector<TensorToWrite> RandomTensors(const nlohmann::json& config) {
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float mean) {
    int64_t count = 1;
    for (const int64_t dimension : shape) count *= dimension;
    std::vector<float> values(static_cast<size_t>(count));
    FillDummy(DummyKey(name), 0, DType::kFloat32, count, values.data());
    for (float& value : values) value = mean + 10 * value;
    tensors.push_back(FloatTensor(name, std::move(shape), values));
  };
  const int64_t hidden = config["hidden_size"];
  const int64_t vocab = config["vocab_size"];
  const int64_t intermediate = config["intermediate_size"];
  const int64_t q =
      config["num_attention_heads"].get<int64_t>() * config["head_dim"].get<int64_t>();
  const int64_t kv =
      config["num_key_value_heads"].get<int64_t>() * config["head_dim"].get<int64_t>();
  add("model.embed_tokens.weight", {vocab, hidden}, 0);
  for (int layer = 0; layer < config["num_hidden_layers"]; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const auto linear = [&](const std::string& name, int64_t out, int64_t in, const char* bias) {
      add(prefix + name + ".weight", {out, in}, 0);
      if (config.value(bias, false)) add(prefix + name + ".bias", {out}, 0);
    };
    add(prefix + "input_layernorm.weight", {hidden}, 1);
    linear("self_attn.q_proj", q, hidden, "attention_bias");
    linear("self_attn.k_proj", kv, hidden, "attention_bias");
    linear("self_attn.v_proj", kv, hidden, "attention_bias");
    linear("self_attn.o_proj", hidden, q, "attention_bias");
    add(prefix + "post_attention_layernorm.weight", {hidden}, 1);
    linear("mlp.gate_proj", intermediate, hidden, "mlp_bias");
    linear("mlp.up_proj", intermediate, hidden, "mlp_bias");
    linear("mlp.down_proj", hidden, intermediate, "mlp_bias");
  }
  add("model.norm.weight", {hidden}, 1);
  if (!config.value("tie_word_embeddings", false)) add("lm_head.weight", {vocab, hidden}, 0);
  return tensors;
}

}  // namespace caravan
