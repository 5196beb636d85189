// A C++ client of the native API with gRPC alone: nothing of Caravan but its proto files.
//
//   conformance_cpp_client HOST:PORT PROMPT MAX_TOKENS
//
// Generates greedily, once by Generate and once on a Session, and writes both texts as they come, a
// line each.
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

#include "caravan/v1/generation.grpc.pb.h"

namespace {

using caravan::v1::GenerateRequest;
using caravan::v1::GenerateResponse;
using caravan::v1::Generation;
using caravan::v1::SessionRequest;
using caravan::v1::SessionResponse;

GenerateRequest MakeRequest(const std::string& prompt, int max_tokens) {
  GenerateRequest request;
  request.add_prompt()->set_text(prompt);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

grpc::Status GenerateOnce(Generation::Stub* stub, const GenerateRequest& request) {
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  GenerateResponse event;
  while (reader->Read(&event)) std::cout << event.tokens().text() << std::flush;
  std::cout << '\n';
  return reader->Finish();
}

grpc::Status GenerateOnSession(Generation::Stub* stub, GenerateRequest request) {
  grpc::ClientContext context;
  const auto stream = stub->Session(&context);
  request.set_request_id("a");
  SessionRequest start;
  *start.mutable_start() = request;
  stream->Write(start);
  stream->WritesDone();
  SessionResponse message;
  while (stream->Read(&message)) {
    std::cout << message.event().event().tokens().text() << std::flush;
  }
  std::cout << '\n';
  return stream->Finish();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s HOST:PORT PROMPT MAX_TOKENS\n", argv[0]);
    return 2;
  }
  const auto stub =
      Generation::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  const GenerateRequest request = MakeRequest(argv[2], std::atoi(argv[3]));
  for (const grpc::Status& status :
       {GenerateOnce(stub.get(), request), GenerateOnSession(stub.get(), request)}) {
    if (status.ok()) continue;
    std::fprintf(stderr, "%s\n", status.error_message().c_str());
    return 1;
  }
  return 0;
}
