#include "gateway/triton/http/infer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "gateway/triton/http/json_text.h"
#include "gateway/triton/http/tensor_json.h"

namespace caravan {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

// An infer request of one input.
std::string OneInput(const std::string& datatype, const std::string& shape,
                     const std::string& data) {
  return R"({"inputs":[{"name":"x","datatype":")" + datatype + R"(","shape":)" + shape +
         R"(,"data":)" + data + "}]}";
}

std::string ErrorOf(const std::string& body, std::optional<size_t> header_length = std::nullopt) {
  return std::string(ParseInfer(body, header_length).status().message());
}

TEST(InferJson, PacksNestedAndFlatDataOfEveryType) {
  const auto pack = [](const std::string& datatype, const std::string& data) {
    const auto parsed = ParseInfer(OneInput(datatype, "[2]", data), std::nullopt);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() ? parsed->request.inputs[0].data : "";
  };
  EXPECT_EQ(pack("UINT32", "[1,4294967295]"), Pack<uint32_t>({1, 4294967295u}));
  EXPECT_EQ(pack("UINT32", "[[1],[[2]]]"), Pack<uint32_t>({1, 2}));
  EXPECT_EQ(pack("INT8", "[-128,127]"), Pack<int8_t>({-128, 127}));
  EXPECT_EQ(pack("UINT8", "[0,255]"), Pack<uint8_t>({0, 255}));
  EXPECT_EQ(pack("INT16", "[-32768,32767]"), Pack<int16_t>({-32768, 32767}));
  EXPECT_EQ(pack("UINT16", "[0,65535]"), Pack<uint16_t>({0, 65535}));
  EXPECT_EQ(pack("INT32", "[-2147483648,5]"), Pack<int32_t>({INT32_MIN, 5}));
  EXPECT_EQ(pack("INT64", "[-9223372036854775808,9223372036854775807]"),
            Pack<int64_t>({INT64_MIN, INT64_MAX}));
  EXPECT_EQ(pack("UINT64", "[0,18446744073709551615]"), Pack<uint64_t>({0, UINT64_MAX}));
  EXPECT_EQ(pack("FP32", "[1,0.5]"), Pack<float>({1, 0.5}));
  EXPECT_EQ(pack("FP64", "[-1,1e300]"), Pack<double>({-1, 1e300}));
  EXPECT_EQ(pack("BOOL", "[true,false]"), std::string("\1\0", 2));
  EXPECT_EQ(pack("BYTES", R"(["ab","\u00e9"])"), std::string("\2\0\0\0ab\2\0\0\0\xc3\xa9", 12));
}

TEST(InferJson, RefusesElementsOfTheWrongTypeOrRangeAndNamesTheTensor) {
  const std::pair<const char*, const char*> wrong[] = {{"UINT32", "[-1]"},
                                                       {"UINT32", "[4294967296]"},
                                                       {"UINT32", "[1.0]"},
                                                       {"UINT32", "[\"1\"]"},
                                                       {"UINT32", "[true]"},
                                                       {"UINT32", "[null]"},
                                                       {"INT8", "[128]"},
                                                       {"INT8", "[-129]"},
                                                       {"INT64", "[9223372036854775808]"},
                                                       {"UINT64", "[-1]"},
                                                       {"FP32", "[\"x\"]"},
                                                       {"FP32", "[1e39]"},
                                                       {"BOOL", "[1]"},
                                                       {"BYTES", "[1]"},
                                                       {"BYTES", "[{}]"},
                                                       {"UINT64", "[1e30]"},
                                                       {"INT64", "[18446744073709551616]"}};
  for (const auto& [datatype, data] : wrong) {
    const std::string error = ErrorOf(OneInput(datatype, "[1]", data));
    EXPECT_THAT(error, HasSubstr("input 'x'")) << datatype << data;
    EXPECT_THAT(error, HasSubstr(datatype)) << data;
  }
  EXPECT_THAT(ErrorOf(OneInput("FP16", "[1]", "[1]")), HasSubstr("not supported"));
  EXPECT_THAT(ErrorOf(OneInput("FP17", "[1]", "[1]")), HasSubstr("unknown datatype 'FP17'"));
}

TEST(InferJson, RefusesShapesThatDoNotFitOrOverflow) {
  EXPECT_THAT(ErrorOf(OneInput("UINT32", "[2]", "[1]")), HasSubstr("1 elements in 'data'"));
  for (const char* shape :
       {"[-1]", "[4294967296,4294967296]", "[9223372036854775807,2]", "[2147483649]"}) {
    EXPECT_THAT(ErrorOf(OneInput("UINT32", shape, "[1]")), HasSubstr("'x'")) << shape;
  }
  for (const char* shape : {"1", "[1.5]", "[\"1\"]", "[18446744073709551615]", "[null]", "{}",
                            "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"}) {
    EXPECT_THAT(ErrorOf(OneInput("UINT32", shape, "[1]")), HasSubstr("'shape' in input 'x'"))
        << shape;
  }
}

TEST(InferJson, TakesBinaryDataInOrder) {
  const std::string json =
      R"({"id":"7","parameters":{"binary_data_output":true,"priority":3},"inputs":[)"
      R"({"name":"a","datatype":"UINT32","shape":[2],"parameters":{"binary_data_size":8}},)"
      R"({"name":"b","datatype":"BOOL","shape":[1],"data":[true]},)"
      R"({"name":"c","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}],)"
      R"("outputs":[{"name":"o"},{"name":"p","parameters":{"binary_data":false}}]})";
  const std::string a = Pack<uint32_t>({5, 6});
  const std::string c("\2\0\0\0hi", 6);
  const auto parsed = ParseInfer(json + a + c, json.size());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->request.id, "7");
  EXPECT_EQ(parsed->request.inputs[0].data, a);
  EXPECT_TRUE(parsed->request.inputs[0].parameters.empty());
  EXPECT_EQ(parsed->request.inputs[2].data, c);
  EXPECT_EQ(parsed->request.parameters.size(), 1);
  EXPECT_EQ(std::get<int64_t>(parsed->request.parameters.at("priority")), 3);
  EXPECT_TRUE(parsed->form.IsBinary("o"));
  EXPECT_FALSE(parsed->form.IsBinary("p"));
}

TEST(InferJson, RefusesBinaryLengthsThatLie) {
  const auto request = [](const std::string& size) {
    return R"({"inputs":[{"name":"x","datatype":"UINT32","shape":[1],)"
           R"("parameters":{"binary_data_size":)" +
           size + "}}]}";
  };
  for (const char* size : {"5", "2147483648", "9223372036854775807", "18446744073709551615", "-1",
                           "\"4\"", "4.0", "true"}) {
    const std::string json = request(size);
    EXPECT_THAT(ErrorOf(json + "abcd", json.size()), HasSubstr("input 'x'")) << size;
  }
  const std::string json = request("3");
  EXPECT_THAT(ErrorOf(json + "abcd", json.size()), HasSubstr("additional input data"));
  EXPECT_TRUE(ParseInfer(json + "abc", json.size()).ok());
  EXPECT_THAT(ErrorOf(json, json.size() + 1), HasSubstr(kInferHeaderLength));
  EXPECT_THAT(ErrorOf(json, std::numeric_limits<size_t>::max()), HasSubstr(kInferHeaderLength));
  EXPECT_THAT(ErrorOf(json + "abc", json.size() - 1), HasSubstr("failed to parse"));
}

TEST(InferJson, ReadsDataFromExactlyOnePlace) {
  const std::string head = R"({"inputs":[{"name":"x","datatype":"UINT32","shape":[1])";
  EXPECT_THAT(ErrorOf(head + "}]}"), HasSubstr("unable to find data for input 'x'"));
  EXPECT_THAT(ErrorOf(head + R"(,"data":[1],"parameters":{"binary_data_size":0}}]})"),
              HasSubstr("more than one"));
  const auto shared = ParseInfer(
      head + R"(,"parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}}]})",
      std::nullopt);
  ASSERT_TRUE(shared.ok()) << shared.status();
  EXPECT_EQ(std::get<std::string>(shared->request.inputs[0].parameters.at("shared_memory_region")),
            "r");
}

TEST(InferJson, NamesWhatIsMissingOrOfTheWrongKind) {
  EXPECT_THAT(ErrorOf("{}"), HasSubstr("'inputs'"));
  EXPECT_THAT(ErrorOf(R"({"inputs":{}})"), HasSubstr("'inputs'"));
  EXPECT_THAT(ErrorOf(R"({"inputs":[1]})"), HasSubstr("inputs[0]"));
  EXPECT_THAT(ErrorOf(R"({"inputs":[{}]})"), HasSubstr("'name' is missing in inputs[0]"));
  EXPECT_THAT(ErrorOf(R"({"inputs":[{"name":5}]})"), HasSubstr("'name'"));
  EXPECT_THAT(ErrorOf(R"({"inputs":[{"name":"x"}]})"), HasSubstr("'datatype' is missing"));
  EXPECT_THAT(ErrorOf(R"({"inputs":[{"name":"x","datatype":"UINT32"}]})"),
              HasSubstr("'shape' is missing in input 'x'"));
  EXPECT_THAT(ErrorOf(R"({"id":5,"inputs":[]})"), HasSubstr("'id'"));
  EXPECT_THAT(ErrorOf(R"({"parameters":[]})"), HasSubstr("'parameters' in the request"));
  EXPECT_THAT(ErrorOf(R"({"parameters":{"p":[1]}})"), HasSubstr("parameter 'p' in the request"));
  EXPECT_THAT(ErrorOf(R"({"parameters":{"binary_data_output":1}})"), HasSubstr("must be a bool"));
}

TEST(InferJson, ReadsParametersOfEveryKind) {
  const auto parsed = ParseInfer(
      R"({"parameters":{"a":true,"b":-5,"c":18446744073709551615,"d":0.5,"e":"x","f":7},"inputs":[)"
      R"({"name":"x","datatype":"BOOL","shape":[1],"data":[true]}]})",
      std::nullopt);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const InferParameters expected = {{"a", true}, {"b", int64_t{-5}},      {"c", UINT64_MAX},
                                    {"d", 0.5},  {"e", std::string("x")}, {"f", int64_t{7}}};
  EXPECT_EQ(parsed->request.parameters, expected);
}

InferResponse SomeResponse() {
  InferResponse response;
  response.model_name = "m";
  response.model_version = "1";
  response.id = "id";
  InferOutput ids;
  ids.name = "ids";
  ids.datatype = DataType::kUint32;
  ids.shape = {1, 2};
  ids.data = Pack<uint32_t>({1, 2});
  InferOutput text = ids;
  text.name = "text";
  text.datatype = DataType::kBytes;
  text.shape = {1};
  text.data.clear();
  AppendBytes("h\xc3\xa9\xff", &text.data);
  response.outputs = {ids, text};
  return response;
}

TEST(InferJson, WritesJsonAndBinaryOutputs) {
  OutputForm form;
  auto answer = WriteInfer(SomeResponse(), form);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->content_type, "application/json");
  EXPECT_EQ(answer->body,
            "{\"id\":\"id\",\"model_name\":\"m\",\"model_version\":\"1\",\"outputs\":["
            "{\"name\":\"ids\",\"datatype\":\"UINT32\",\"shape\":[1,2],\"data\":[1,2]},"
            "{\"name\":\"text\",\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"h\xc3\xa9"
            "\xEF\xBF\xBD\"]}]}");
  form.binary = true;
  form.outputs["text"] = false;
  answer = WriteInfer(SomeResponse(), form);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->content_type, "application/octet-stream");
  ASSERT_EQ(answer->headers.size(), 1);
  EXPECT_EQ(answer->headers[0].name, "Inference-Header-Content-Length");
  const size_t length = std::stoul(answer->headers[0].value);
  EXPECT_EQ(answer->body.substr(length), Pack<uint32_t>({1, 2}));
  const Json json = Json::parse(answer->body.substr(0, length));
  EXPECT_EQ(json["outputs"][0]["parameters"]["binary_data_size"], 8);
  EXPECT_FALSE(json["outputs"][0].contains("data"));
}

TEST(InferJson, AnOutputInSharedMemoryHasNoData) {
  InferResponse response = SomeResponse();
  response.outputs.resize(1);
  response.outputs[0].data.clear();
  response.outputs[0].parameters = {{kSharedMemoryRegion, std::string("r")},
                                    {kSharedMemoryByteSize, int64_t{8}}};
  OutputForm form;
  form.binary = true;
  const auto answer = WriteInfer(response, form);
  ASSERT_TRUE(answer.ok());
  const Json json = Json::parse(answer->body);
  EXPECT_EQ(json["outputs"][0]["parameters"],
            (Json{{"shared_memory_region", "r"}, {"shared_memory_byte_size", 8}}));
}

// Whatever the bytes: an answer, and no more memory than the body deserves.
TEST(InferJson, SurvivesMutations) {
  const std::string json =
      R"({"id":"7","parameters":{"binary_data_output":true},"inputs":[{"name":"a","datatype":)"
      R"("UINT32","shape":[2,1],"parameters":{"binary_data_size":8}},{"name":"c","datatype":)"
      R"("BYTES","shape":[1],"data":["word"]}],"outputs":[{"name":"o"}]})";
  const std::vector<std::string> pieces = {
      "[", "]", "{", "}", "\"", ",", ":", "-1", "1e99", "\\u", "null", "[[[[", "\"data\":", "\xff"};
  std::mt19937 random(3);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string body = json + Pack<uint32_t>({1, 2});
    for (uint32_t n = random() % 4; n > 0; --n) {
      const size_t at = random() % body.size();
      switch (random() % 4) {
        case 0:
          body[at] = static_cast<char>(random());
          break;
        case 1:
          body.erase(at, 1 + random() % 4);
          break;
        case 2:
          body.insert(at, pieces[random() % pieces.size()]);
          break;
        default:
          body.insert(at, std::to_string(random() * (random() % 2 == 0 ? 1L : 1L << 33)));
      }
    }
    const size_t length = random() % 4 == 0 ? random() % (2 * body.size()) : json.size();
    const auto parsed = ParseInfer(body, length);
    accepted += parsed.ok() ? 1 : 0;
    EXPECT_TRUE(parsed.ok() || !parsed.status().message().empty());
  }
  EXPECT_GT(accepted, 1000);
}

}  // namespace
}  // namespace caravan
