// The tokenizer service's settings: every one is a flag.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace caravan {

struct TokenizerLimits {
  int max_text_bytes = 4 << 20;            // of one text, or of one conversation
  int max_batch_inputs = 4096;             // inputs of one Encode or Decode
  int max_decode_tokens = 1 << 20;         // ids of one Decode, and of one message in a session
  int max_session_sequences = 16384;       // open at once in one decode session
  int max_session_queued_responses = 256;  // unsent ones, after which a session is not read
  int long_request_bytes = 16 << 10;       // longer ones leave gRPC's threads
  int long_request_threads = 2;
  int max_waiting_long_requests = 256;
  int max_message_bytes = 16 << 20;  // of one message that comes in
};

struct TokenizerConfig {
  std::string model;      // a Hugging Face model folder
  std::string tokenizer;  // the folder that holds its tokenizer; empty: `model`
  std::string chat_format = "auto";
  std::string listen_address = "0.0.0.0:50052";
  std::string metrics_address;  // empty: none
  std::string port_file;        // empty: none
  int drain_timeout_ms = 30000;
  TokenizerLimits limits;
};

// From flags. INVALID_ARGUMENT names the flag that is wrong.
absl::StatusOr<TokenizerConfig> LoadTokenizerConfig();

}  // namespace caravan
