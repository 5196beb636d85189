// Responses as bytes on the wire, written once: a stream of cumulative responses repeats its
// tensors with every token, and generated messages would allocate each name, shape and parameter
// anew and copy the tensors twice.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <string_view>

#include "gateway/triton/protocol/infer_message.h"

namespace caravan {

// Keeps a buffer from one response to the next. Not thread-safe.
class ResponseEncoder {
 public:
  // inference.ModelInferResponse. Tensors are raw contents, in their order; large ones are given to
  // gRPC as they are.
  grpc::ByteBuffer Encode(InferResponse response);
  // inference.ModelStreamInferResponse with it.
  grpc::ByteBuffer EncodeInStream(InferResponse response);

 private:
  void AppendVarint(uint64_t value);
  void AppendField(int field, std::string_view bytes);
  // A message inside: its length is put in at its end, which moves it where it needs two bytes.
  size_t BeginMessage(int field);
  void EndMessage(size_t begin);
  void AppendParameter(int field, std::string_view name, const InferParameter& value);
  void AppendTensor(const InferOutput& output);
  void AppendHead(const InferResponse& response);
  grpc::ByteBuffer Assemble(InferResponse&& response, bool in_stream);

  std::string buffer_;
};

}  // namespace caravan
