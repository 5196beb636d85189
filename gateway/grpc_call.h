// A client's call over gRPC: what it says of itself, and its messages.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {

// What the call says of a request, beside its message.
struct CallInfo {
  std::string request_id;   // x-request-id
  std::string traceparent;  // W3C trace context
  std::string client;       // the peer's address, without its port
  std::chrono::system_clock::time_point deadline;
};
CallInfo CallInfoOf(const grpc::CallbackServerContext& context);

// The earlier of both deadlines; time_point::max() where there is none. `timeout_ms` counts from
// `arrival`, 0 = none.
std::chrono::steady_clock::time_point EarlierDeadline(
    std::chrono::steady_clock::time_point arrival, uint32_t timeout_ms,
    std::chrono::system_clock::time_point of_call);

// What a client compressed (gzip, or zlib's format, as gRPC's `deflate` has it) becomes what it
// was; other messages stay as they are. RESOURCE_EXHAUSTED as soon as there are more than
// `max_bytes`, INVALID_ARGUMENT for damaged data. The server must leave messages as they come
// (GrpcServerOptions::decompress).
absl::Status Decompress(size_t max_bytes, grpc::ByteBuffer* bytes);

// Messages as they came over the wire. gRPC ends a whole stream, without a word, over one message
// that it can't parse (a `string` that is not UTF-8 is enough): so the front doors parse their own.
// INVALID_ARGUMENT where the bytes are no such message; `message` then holds what came before the
// fault.
template <typename Message>
absl::Status Parse(grpc::ByteBuffer bytes, Message* message) {
  if (grpc::SerializationTraits<Message>::Deserialize(&bytes, message).ok()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the message is no ", Message::descriptor()->full_name(),
      ": its bytes are damaged, or a text field such as a name or an id is not UTF-8"));
}

template <typename Message>
grpc::ByteBuffer Serialize(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  const grpc::Status status =
      grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer);
  CARAVAN_CHECK(status.ok(), status.error_message());
  return bytes;
}

// A request of a method whose messages gRPC parses: it may come compressed here, too.
template <typename Message>
struct ReceivedMessage {
  Message message;
  absl::Status status;  // of decompressing and parsing
};

// Answers a unary method in place of generated code's handler, for
// grpc::Service::MarkMethodCallback.
template <typename Request, typename Response>
grpc::internal::MethodHandler* HandlerOf(
    std::function<grpc::ServerUnaryReactor*(grpc::CallbackServerContext*, const Request*,
                                            Response*)>
        answer);

inline constexpr size_t kMaxManagementBytes = 16 << 20;  // of such a request, decompressed

}  // namespace caravan

namespace grpc {

// Never fails: an error here would be answered with UNIMPLEMENTED.
template <typename Message>
class SerializationTraits<caravan::ReceivedMessage<Message>, void> {
 public:
  static Status Deserialize(ByteBuffer* bytes, caravan::ReceivedMessage<Message>* received) {
    ByteBuffer plain = *bytes;
    bytes->Clear();
    received->status = caravan::Decompress(caravan::kMaxManagementBytes, &plain);
    if (received->status.ok()) received->status = caravan::Parse(plain, &received->message);
    return Status::OK;
  }
};

}  // namespace grpc

namespace caravan {

template <typename Request, typename Response>
grpc::internal::MethodHandler* HandlerOf(
    std::function<grpc::ServerUnaryReactor*(grpc::CallbackServerContext*, const Request*,
                                            Response*)>
        answer) {
  return new grpc::internal::CallbackUnaryHandler<ReceivedMessage<Request>, Response>(
      [answer = std::move(answer)](grpc::CallbackServerContext* call,
                                   const ReceivedMessage<Request>* received, Response* response) {
        if (received->status.ok()) return answer(call, &received->message, response);
        grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
        reactor->Finish(ToGrpcStatus(received->status));
        return reactor;
      });
}

}  // namespace caravan
