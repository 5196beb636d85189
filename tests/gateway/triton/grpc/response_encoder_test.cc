// What the encoder writes, read by generated code.
#include "gateway/triton/grpc/response_encoder.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "gateway/grpc_call.h"
#include "gateway/triton/protocol/tensor.h"
#include "inference/grpc_service.grpc.pb.h"

namespace caravan {
namespace {

InferOutput Output(const std::string& name, DataType datatype, Shape shape, std::string data) {
  InferOutput output;
  output.name = name;
  output.datatype = datatype;
  output.shape = std::move(shape);
  output.data = std::move(data);
  return output;
}

InferResponse SomeResponse() {
  InferResponse response;
  response.model_name = std::string("fastertransformer");
  response.model_version = std::string("1");
  response.id = std::string("r");
  response.outputs.push_back(
      Output("output_ids", DataType::kUint32, {1, 1, 300}, std::string(1200, 'i')));
  response.outputs.push_back(
      Output("OUTPUT_0", DataType::kBytes, {1}, std::string("\1\0\0\0x", 5)));
  return response;
}

// The same with generated code.
inference::ModelInferResponse Expected(const InferResponse& response) {
  inference::ModelInferResponse message;
  message.set_model_name(response.model_name);
  message.set_model_version(response.model_version);
  message.set_id(response.id);
  for (const InferOutput& output : response.outputs) {
    auto* tensor = message.add_outputs();
    tensor->set_name(output.name);
    tensor->set_datatype(NameOf(output.datatype));
    tensor->mutable_shape()->Assign(output.shape.begin(), output.shape.end());
    message.add_raw_output_contents(output.data);
  }
  return message;
}

void ExpectEncoded(const InferResponse& response, const inference::ModelInferResponse& expected) {
  ResponseEncoder encoder;
  inference::ModelInferResponse message;
  ASSERT_TRUE(Parse(encoder.Encode(response), &message).ok());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(message, expected));
  EXPECT_EQ(encoder.Encode(response).Length(), expected.ByteSizeLong());
  inference::ModelStreamInferResponse in_stream;
  inference::ModelStreamInferResponse expected_in_stream;
  *expected_in_stream.mutable_infer_response() = expected;
  const grpc::ByteBuffer bytes = encoder.EncodeInStream(response);
  EXPECT_EQ(bytes.Length(), expected_in_stream.ByteSizeLong());
  ASSERT_TRUE(Parse(bytes, &in_stream).ok());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(in_stream, expected_in_stream));
}

TEST(ResponseEncoder, WritesWhatGeneratedCodeReads) {
  ExpectEncoded(SomeResponse(), Expected(SomeResponse()));
}

TEST(ResponseEncoder, AnEmptyResponseHasNamesAndTheFinalMark) {
  InferResponse response;
  response.model_name = std::string("ensemble");
  response.model_version = std::string("1");
  response.final = true;
  inference::ModelInferResponse expected = Expected(response);
  (*expected.mutable_parameters())["triton_final_response"].set_bool_param(true);
  ExpectEncoded(response, expected);
}

TEST(ResponseEncoder, ParametersOfEveryKind) {
  InferResponse response = SomeResponse();
  response.parameters = {{"b", false},
                         {"i", int64_t{-5}},
                         {"u", ~uint64_t{0}},
                         {"d", -0.25},
                         {"s", std::string(200, 's')}};
  response.final = false;
  response.outputs[1].parameters = {{kSharedMemoryRegion, std::string("region")},
                                    {kSharedMemoryByteSize, int64_t{1} << 40}};
  inference::ModelInferResponse expected = Expected(response);
  auto& parameters = *expected.mutable_parameters();
  parameters["b"].set_bool_param(false);
  parameters["i"].set_int64_param(-5);
  parameters["u"].set_uint64_param(~uint64_t{0});
  parameters["d"].set_double_param(-0.25);
  parameters["s"].set_string_param(std::string(200, 's'));
  parameters["triton_final_response"].set_bool_param(false);
  auto& of_output = *expected.mutable_outputs(1)->mutable_parameters();
  of_output["shared_memory_region"].set_string_param("region");
  of_output["shared_memory_byte_size"].set_int64_param(int64_t{1} << 40);
  ExpectEncoded(response, expected);
}

// Every length around the sizes at which a length takes another byte, or a tensor its own slice.
TEST(ResponseEncoder, TensorsOfEverySize) {
  for (const size_t size : {0, 1, 100, 127, 128, 16383, 16384, 16385, 2097152}) {
    InferResponse response = SomeResponse();
    response.outputs[0].data = std::string(size, 'a');
    ExpectEncoded(response, Expected(response));
    response.outputs[1].data = std::string(size, 'b');
    ExpectEncoded(response, Expected(response));
    response.outputs.push_back(Output("tail", DataType::kInvalid, {-1, 0}, "tail"));
    ExpectEncoded(response, Expected(response));
  }
}

}  // namespace
}  // namespace caravan
