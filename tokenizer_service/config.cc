#include "tokenizer_service/config.h"

#include <algorithm>
#include <utility>

#include "absl/flags/flag.h"
#include "common/flags.h"
#include "common/status.h"

using caravan::TokenizerConfig;
using caravan::TokenizerLimits;

ABSL_FLAG(std::string, model, "", "Hugging Face folder of the model whose tokenizer is served.");
ABSL_FLAG(std::string, tokenizer, "",
          "Folder with tokenizer.model and tokenizer_config.json, where it is not --model.");
ABSL_FLAG(std::string, chat_format, TokenizerConfig{}.chat_format,
          "Format of conversations: auto (the model's own), llama2, llama3, plain.");
ABSL_FLAG(std::string, listen_address, TokenizerConfig{}.listen_address,
          "host:port to serve gRPC on; port 0 takes a free one.");
ABSL_FLAG(std::string, metrics_address, TokenizerConfig{}.metrics_address,
          "host:port to serve Prometheus metrics on, at /metrics; empty for none.");
ABSL_FLAG(std::string, port_file, TokenizerConfig{}.port_file,
          "File to write the ports to once they are open: lines grpc=PORT and metrics=PORT.");
ABSL_FLAG(int, drain_timeout_ms, TokenizerConfig{}.drain_timeout_ms,
          "After SIGTERM, time for calls and open sequences to finish.");
ABSL_FLAG(int, max_message_bytes, TokenizerLimits{}.max_message_bytes,
          "Largest message taken; a larger one ends its own call.");
ABSL_FLAG(int, max_text_bytes, TokenizerLimits{}.max_text_bytes,
          "Longest text that is encoded, and longest conversation.");
ABSL_FLAG(int, max_batch_inputs, TokenizerLimits{}.max_batch_inputs,
          "Most inputs in one Encode or Decode.");
ABSL_FLAG(int, max_decode_tokens, TokenizerLimits{}.max_decode_tokens,
          "Most token ids in one Decode and in one message of a decode session.");
ABSL_FLAG(int, max_session_sequences, TokenizerLimits{}.max_session_sequences,
          "Most sequences open at once in one decode session.");
ABSL_FLAG(int, max_session_queued_responses, TokenizerLimits{}.max_session_queued_responses,
          "Unsent responses after which a decode session reads no more until its client does.");
ABSL_FLAG(int, long_request_bytes, TokenizerLimits{}.long_request_bytes,
          "Requests with more text than this are handled by threads of their own.");
ABSL_FLAG(int, long_request_threads, TokenizerLimits{}.long_request_threads,
          "Threads for long requests.");
ABSL_FLAG(int, max_waiting_long_requests, TokenizerLimits{}.max_waiting_long_requests,
          "Long requests that wait for a thread before more are refused.");

namespace caravan {
namespace {

constexpr int kMostThreads = 1024;

TokenizerConfig FromFlags() {
  TokenizerConfig config;
  config.model = absl::GetFlag(FLAGS_model);
  config.tokenizer = absl::GetFlag(FLAGS_tokenizer);
  config.chat_format = absl::GetFlag(FLAGS_chat_format);
  config.listen_address = absl::GetFlag(FLAGS_listen_address);
  config.metrics_address = absl::GetFlag(FLAGS_metrics_address);
  config.port_file = absl::GetFlag(FLAGS_port_file);
  config.drain_timeout_ms = absl::GetFlag(FLAGS_drain_timeout_ms);
  TokenizerLimits& limits = config.limits;
  limits.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  limits.max_text_bytes = absl::GetFlag(FLAGS_max_text_bytes);
  limits.max_batch_inputs = absl::GetFlag(FLAGS_max_batch_inputs);
  limits.max_decode_tokens = absl::GetFlag(FLAGS_max_decode_tokens);
  limits.max_session_sequences = absl::GetFlag(FLAGS_max_session_sequences);
  limits.max_session_queued_responses = absl::GetFlag(FLAGS_max_session_queued_responses);
  limits.long_request_bytes = absl::GetFlag(FLAGS_long_request_bytes);
  limits.long_request_threads = absl::GetFlag(FLAGS_long_request_threads);
  limits.max_waiting_long_requests = absl::GetFlag(FLAGS_max_waiting_long_requests);
  return config;
}

absl::Status CheckAtLeast(const char* flag, int value, int lowest) {
  if (value >= lowest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, "; it must be at least ", lowest));
}

}  // namespace

absl::StatusOr<TokenizerConfig> LoadTokenizerConfig() {
  TokenizerConfig config = FromFlags();
  const TokenizerLimits& limits = config.limits;
  if (config.model.empty() && config.tokenizer.empty()) {
    return absl::InvalidArgumentError("--model is missing; it is a Hugging Face model folder");
  }
  if (config.tokenizer.empty()) config.tokenizer = config.model;
  RETURN_IF_ERROR(
      CheckOneOf("chat_format", config.chat_format, {"auto", "llama2", "llama3", "plain"}));
  RETURN_IF_ERROR(CheckListenAddress("listen_address", config.listen_address));
  if (!config.metrics_address.empty()) {
    RETURN_IF_ERROR(CheckListenAddress("metrics_address", config.metrics_address));
  }
  RETURN_IF_ERROR(CheckAtLeast("drain_timeout_ms", config.drain_timeout_ms, 0));
  RETURN_IF_ERROR(CheckIn("long_request_threads", limits.long_request_threads, 1, kMostThreads));
  RETURN_IF_ERROR(CheckAtLeast("long_request_bytes", limits.long_request_bytes, 0));
  const std::pair<const char*, int> positive[] = {
      {"max_message_bytes", limits.max_message_bytes},
      {"max_text_bytes", limits.max_text_bytes},
      {"max_batch_inputs", limits.max_batch_inputs},
      {"max_decode_tokens", limits.max_decode_tokens},
      {"max_session_sequences", limits.max_session_sequences},
      {"max_session_queued_responses", limits.max_session_queued_responses},
      {"max_waiting_long_requests", limits.max_waiting_long_requests}};
  for (const auto& [flag, value] : positive) RETURN_IF_ERROR(CheckAtLeast(flag, value, 1));
  return config;
}

}  // namespace caravan
