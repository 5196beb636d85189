// A C++ client of a Triton Inference Server that runs LLaMA, with typed contents and gRPC alone.
//
//   conformance_triton_cpp_client HOST:PORT PROMPT MAX_TOKENS
//
// Asks `ensemble` by ModelInfer and by ModelStreamInfer, and writes both texts, a line each.
#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

#include "inference/grpc_service.grpc.pb.h"

namespace {

using inference::GRPCInferenceService;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

inference::InferTensorContents* AddInput(const char* name, const char* datatype,
                                         ModelInferRequest* request) {
  auto* input = request->add_inputs();
  input->set_name(name);
  input->set_datatype(datatype);
  input->add_shape(1);
  input->add_shape(1);
  return input->mutable_contents();
}

ModelInferRequest MakeRequest(const std::string& prompt, uint32_t max_tokens) {
  ModelInferRequest request;
  request.set_model_name("ensemble");
  request.set_id("1");
  AddInput("INPUT_0", "BYTES", &request)->add_bytes_contents(prompt);
  AddInput("INPUT_1", "UINT32", &request)->add_uint_contents(max_tokens);
  AddInput("INPUT_2", "BYTES", &request)->add_bytes_contents("");
  AddInput("INPUT_3", "BYTES", &request)->add_bytes_contents("");
  AddInput("runtime_top_k", "UINT32", &request)->add_uint_contents(1);
  AddInput("temperature", "FP32", &request)->add_fp32_contents(1);
  AddInput("random_seed", "UINT64", &request)->add_uint64_contents(0);
  AddInput("is_return_log_probs", "BOOL", &request)->add_bool_contents(true);
  return request;
}

// OUTPUT_0: one element, a length and its bytes.
std::string TextOf(const ModelInferResponse& response) {
  for (int i = 0; i < response.outputs_size(); ++i) {
    if (response.outputs(i).name() != "OUTPUT_0") continue;
    const std::string& raw = response.raw_output_contents(i);
    uint32_t length = 0;
    std::memcpy(&length, raw.data(), sizeof(length));
    return raw.substr(sizeof(length), length);
  }
  return "no OUTPUT_0";
}

grpc::Status InferOnce(GRPCInferenceService::Stub* stub, const ModelInferRequest& request) {
  grpc::ClientContext context;
  ModelInferResponse response;
  grpc::Status status = stub->ModelInfer(&context, request, &response);
  if (status.ok()) std::cout << TextOf(response) << '\n';
  return status;
}

grpc::Status InferOnStream(GRPCInferenceService::Stub* stub, const ModelInferRequest& request) {
  grpc::ClientContext context;
  const auto stream = stub->ModelStreamInfer(&context);
  stream->Write(request);
  stream->WritesDone();
  ModelStreamInferResponse response;
  std::string text;
  while (stream->Read(&response)) {
    if (!response.error_message().empty()) std::cerr << response.error_message() << '\n';
    text = TextOf(response.infer_response());  // cumulative: the last one is the whole
  }
  std::cout << text << '\n';
  return stream->Finish();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: conformance_triton_cpp_client HOST:PORT PROMPT MAX_TOKENS\n";
    return 2;
  }
  const auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  const auto stub = GRPCInferenceService::NewStub(channel);
  const ModelInferRequest request =
      MakeRequest(argv[2], static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10)));
  for (const auto call : {InferOnce, InferOnStream}) {
    if (const grpc::Status status = call(stub.get(), request); !status.ok()) {
      std::cerr << status.error_message() << '\n';
      return 1;
    }
  }
  return 0;
}
