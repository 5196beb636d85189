// What the gateway counts: https://prometheus.io names, all beginning with caravan_gateway_.
#pragma once

#include <array>

#include "absl/status/status.h"
#include "common/metrics.h"

namespace caravan {

// How a sequence ended, as in generation.proto.
enum class EndReason : uint8_t { kStopToken, kStopString, kLength, kCancelled, kError };
const char* NameOf(EndReason reason);

// References into a registry, which outlives this. Thread-safe.
struct GatewayMetrics {
  explicit GatewayMetrics(MetricsRegistry& registry);

  Counter& requests_started;
  // By how the request ended: a request is counted by its last sequence.
  std::array<Counter*, 5> requests_finished;  // by EndReason
  Counter& finished(EndReason reason) { return *requests_finished[static_cast<int>(reason)]; }
  // Requests that ended with an error, by gRPC code.
  std::array<Counter*, 17> errors;
  Counter& error(absl::StatusCode code) { return *errors[static_cast<int>(code) % errors.size()]; }

  Gauge& queued_requests;
  Gauge& inflight_requests;
  Gauge& replicas_ready;
  Gauge& tokenizers_ready;
  Gauge& open_calls;         // Generate and Session calls of clients
  Counter& refusals;         // by admission
  Counter& slow_readers;     // requests ended because their client read too slowly
  Counter& unknown_cancels;  // session cancels and credits of ids that don't run
  Counter& reroutes;         // requests sent to another replica before their first token
  Counter& stale_events;     // worker events of another instance, epoch, attempt or request
  Counter& prompt_tokens;
  Counter& cached_prompt_tokens;
  Counter& generated_tokens;
  Histogram& time_to_first_token_seconds;
  Histogram& inter_token_seconds;
  Histogram& request_seconds;
  Histogram& queue_seconds;
};

}  // namespace caravan
