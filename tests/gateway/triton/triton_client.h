// A client of the Triton door of a real gateway, between fakes.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "gateway/triton/protocol/tensor.h"
#include "inference/grpc_service.grpc.pb.h"
#include "tests/gateway/gateway_cluster.h"

namespace caravan {

using inference::GRPCInferenceService;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

inline void AddInput(const char* name, const char* datatype, int64_t rows, const std::string& raw,
                     ModelInferRequest* request) {
  auto* input = request->add_inputs();
  input->set_name(name);
  input->set_datatype(datatype);
  input->add_shape(rows);
  input->add_shape(1);
  request->add_raw_input_contents(raw);
}

inline std::string Texts(const std::vector<std::string>& texts) {
  std::string data;
  for (const std::string& text : texts) AppendBytes(text, &data);
  return data;
}

inline ModelInferRequest EnsembleRequest(const std::vector<std::string>& prompts,
                                         const std::vector<uint32_t>& lengths,
                                         const std::string& id = "r") {
  const auto rows = static_cast<int64_t>(prompts.size());
  ModelInferRequest request;
  request.set_model_name("ensemble");
  request.set_id(id);
  AddInput("INPUT_0", "BYTES", rows, Texts(prompts), &request);
  AddInput("INPUT_1", "UINT32", rows, Pack(lengths), &request);
  AddInput("INPUT_2", "BYTES", rows, Texts(std::vector<std::string>(prompts.size())), &request);
  AddInput("INPUT_3", "BYTES", rows, Texts(std::vector<std::string>(prompts.size())), &request);
  return request;
}

inline std::string RawOf(const ModelInferResponse& response, const std::string& output) {
  for (int i = 0; i < response.outputs_size(); ++i) {
    if (response.outputs(i).name() == output) return response.raw_output_contents(i);
  }
  return "";
}

inline std::vector<std::string> TextsOf(const ModelInferResponse& response) {
  const std::string raw = RawOf(response, "OUTPUT_0");
  std::vector<std::string> texts;
  for (const std::string_view text : UnpackBytes(raw)) texts.emplace_back(text);
  return texts;
}

inline bool IsFinal(const ModelStreamInferResponse& response) {
  return response.infer_response().parameters().at("triton_final_response").bool_param();
}

class TritonTest : public testing::Test {
 protected:
  explicit TritonTest(GatewayConfig config = {}, const FakeWorker::Options& worker = {})
      : cluster_(std::move(config), {worker}),
        channel_(MakeChannel(absl::StrCat("127.0.0.1:", cluster_.gateway().port()))),
        stub_(GRPCInferenceService::NewStub(channel_)) {}

  // One stream; reads time out.
  struct Stream {
    explicit Stream(GRPCInferenceService::Stub* stub) {
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
      stream = stub->ModelStreamInfer(&context);
    }
    ModelStreamInferResponse Read() {
      ModelStreamInferResponse response;
      EXPECT_TRUE(stream->Read(&response));
      return response;
    }
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<ModelInferRequest, ModelStreamInferResponse>> stream;
  };

  Cluster cluster_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<GRPCInferenceService::Stub> stub_;
};

}  // namespace caravan
