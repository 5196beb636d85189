// A client's call over gRPC: what it says of itself, and its messages.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
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

}  // namespace caravan
