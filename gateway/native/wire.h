// Messages as they came over the wire. gRPC ends a whole stream, without a word, over one message
// that it can't parse (a `string` that is not UTF-8 is enough): so the native API parses its own.
#pragma once

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "common/status.h"

namespace caravan {

// INVALID_ARGUMENT where the bytes are no such message; `message` then holds what came before the
// fault.
template <typename Message>
absl::Status Parse(grpc::ByteBuffer bytes, Message* message) {
  if (grpc::SerializationTraits<Message>::Deserialize(&bytes, message).ok()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the message is no ", Message::descriptor()->full_name(),
                   ": its bytes are damaged, or a text field such as request_id, model, adapter or "
                   "tenant is not UTF-8"));
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
