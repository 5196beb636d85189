#include "gateway/triton/http/generate_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/triton/http/json_text.h"
#include "gateway/triton/http/message_json.h"

namespace caravan {
namespace {

using testing::HasSubstr;

const TritonModel& Model(const std::string& name) {
  static const std::vector<TritonModel> models = MakeModelCatalog({});
  for (const TritonModel& model : models) {
    if (model.name == name) return model;
  }
  ADD_FAILURE() << name;
  return models[0];
}

const InferInput& Input(const InferRequest& request, const std::string& name) {
  for (const InferInput& input : request.inputs) {
    if (input.name == name) return input;
  }
  ADD_FAILURE() << "no input " << name;
  return request.inputs[0];
}

std::string ErrorOf(const std::string& model, const std::string& body) {
  return std::string(ParseGenerate(Model(model), body).status().message());
}

TEST(GenerateJson, MakesTensorsOfKnownNamesAndParametersOfOthers) {
  const auto request = ParseGenerate(
      Model("ensemble"), R"({"id":"9","INPUT_0":"hi","INPUT_1":5,"temperature":1,)"
                         R"("is_return_log_probs":true,"random_seed":18446744073709551615,)"
                         R"("mine":"x","parameters":{"runtime_top_k":3,"priority":1}})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->id, "9");
  EXPECT_EQ(Input(*request, "INPUT_0").shape, (Shape{1, 1}));
  EXPECT_EQ(Input(*request, "INPUT_0").data, std::string("\2\0\0\0hi", 6));
  EXPECT_EQ(Input(*request, "INPUT_1").datatype, "UINT32");
  EXPECT_EQ(Input(*request, "temperature").data, Pack<float>({1}));
  EXPECT_EQ(Input(*request, "random_seed").data, Pack<uint64_t>({UINT64_MAX}));
  EXPECT_EQ(Input(*request, "is_return_log_probs").data, "\1");
  EXPECT_EQ(Input(*request, "runtime_top_k").data, Pack<uint32_t>({3}));
  const InferParameters expected = {{"mine", std::string("x")}, {"priority", int64_t{1}}};
  EXPECT_EQ(request->parameters, expected);
}

TEST(GenerateJson, FitsShapes) {
  const auto request =
      ParseGenerate(Model("fastertransformer"),
                    R"({"input_ids":[1,2,3],"input_lengths":3,"request_output_len":8,)"
                    R"("stop_words_list":[[[5,6,7],[2,3,-1]]]})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(Input(*request, "input_ids").shape, (Shape{1, 3}));
  EXPECT_EQ(Input(*request, "input_lengths").shape, (Shape{1, 1}));
  EXPECT_EQ(Input(*request, "stop_words_list").shape, (Shape{1, 2, 3}));
  EXPECT_THAT(ErrorOf("fastertransformer", R"({"stop_words_list":[1,2,3]})"),
              HasSubstr("input 'stop_words_list' has 3 elements"));
}

TEST(GenerateJson, TakesTheNamesOfNewerClients) {
  const auto request = ParseGenerate(
      Model("ensemble"),
      R"({"text_input":"hi","parameters":{"max_tokens":5,"stream":true,"stop":["a","b"]}})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(Input(*request, "text_input").shape, (Shape{1, 1}));
  EXPECT_EQ(Input(*request, "stop_words").shape, (Shape{1, 2}));
  EXPECT_TRUE(request->parameters.empty());
}

TEST(GenerateJson, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf("ensemble", R"({"INPUT_1":-1})"), HasSubstr("input 'INPUT_1' is UINT32"));
  EXPECT_THAT(ErrorOf("ensemble", R"({"INPUT_0":5})"), HasSubstr("input 'INPUT_0' is BYTES"));
  EXPECT_THAT(ErrorOf("ensemble", R"({"temperature":"hot"})"), HasSubstr("'temperature'"));
  EXPECT_THAT(ErrorOf("ensemble", R"({"mine":[1]})"), HasSubstr("parameter 'mine'"));
  EXPECT_THAT(ErrorOf("ensemble", R"({"parameters":5})"), HasSubstr("'parameters'"));
  EXPECT_THAT(ErrorOf("ensemble", R"({"id":5})"), HasSubstr("'id'"));
  EXPECT_THAT(ErrorOf("ensemble", "hello"), HasSubstr("failed to parse"));
}

TEST(GenerateJson, UnwrapsOutputsOfOneElement) {
  InferResponse response;
  response.model_name = "ensemble";
  response.model_version = "1";
  response.final = true;
  InferOutput text;
  text.name = "text_output";
  text.datatype = DataType::kBytes;
  text.shape = {1};
  AppendBytes("hi", &text.data);
  InferOutput lengths;
  lengths.name = "sequence_length";
  lengths.datatype = DataType::kUint32;
  lengths.shape = {1, 2};
  lengths.data = Pack<uint32_t>({3, 4});
  response.outputs = {text, lengths};
  EXPECT_EQ(ToText(*WriteGenerate(response)),
            R"({"model_name":"ensemble","model_version":"1","text_output":"hi",)"
            R"("sequence_length":[3,4]})");
}

TEST(MessageJson, WritesConfigurationsAsTritonDoes) {
  const auto json = MessageToJson(Model("fastertransformer").config);
  EXPECT_EQ(json["name"], "fastertransformer");
  EXPECT_EQ(json["max_batch_size"], 1024);
  EXPECT_EQ(json["input"][0]["data_type"], "TYPE_UINT32");
  EXPECT_EQ(json["input"][0]["dims"], (nlohmann::ordered_json{-1}));  // numbers, not strings
  EXPECT_EQ(json["input"][0]["optional"], false);                     // present though unset
  EXPECT_EQ(json["input"][1]["reshape"]["shape"].size(), 0);
  EXPECT_EQ(json["instance_group"][0]["kind"], "KIND_CPU");
  EXPECT_EQ(json["model_transaction_policy"]["decoupled"], true);
  EXPECT_EQ(json["parameters"]["model_type"]["string_value"], "Llama");
  EXPECT_FALSE(json.contains("dynamic_batching"));  // of a oneof that is not set
  const auto ensemble = MessageToJson(Model("ensemble").config);
  EXPECT_EQ(ensemble["ensemble_scheduling"]["step"][0]["input_map"]["QUERY"], "INPUT_0");
  EXPECT_EQ(ensemble["ensemble_scheduling"]["step"][0]["model_version"], -1);
}

}  // namespace
}  // namespace caravan
