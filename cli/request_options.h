// The options that `generate` and `chat` share: where the gateway is, and how to sample and stop.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "caravan/v1/generation.pb.h"
#include "cli/generation_client.h"
#include "cli/options.h"

namespace caravan {

struct RequestOptions {
  std::string address;  // empty: the running cluster's, else localhost:8001
  std::string model;
  int64_t max_tokens = 256;
  std::optional<double> temperature;
  int64_t top_k = 0;
  std::optional<double> top_p;
  double min_p = 0;
  std::optional<double> repetition_penalty;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  int64_t timeout_ms = 0;
  bool retry = true;
  int64_t retry_seconds = 30;

  void AddTo(Options* options);
  // Ends the process with 2 where a value does not fit its field; what the model takes is the
  // gateway's to say.
  void CheckOrExit(const Options& options) const;
  // Without the prompt.
  v1::GenerateRequest MakeRequest() const;
  RetryOptions MakeRetry() const;
};

}  // namespace caravan
