#include "gateway/metrics.h"

namespace caravan {
namespace {

std::array<Counter*, 5> FinishedByReason(MetricsRegistry& registry) {
  std::array<Counter*, 5> counters{};
  for (int i = 0; i < 5; ++i) {
    counters[i] = &registry.AddCounter("caravan_gateway_requests_finished_total",
                                       "Requests by how they ended.",
                                       {{"reason", NameOf(static_cast<EndReason>(i))}});
  }
  return counters;
}

std::array<Counter*, 17> ErrorsByCode(MetricsRegistry& registry) {
  std::array<Counter*, 17> counters{};
  for (int i = 0; i < 17; ++i) {
    counters[i] = &registry.AddCounter(
        "caravan_gateway_request_errors_total", "Requests that ended with an error, by gRPC code.",
        {{"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(i))}});
  }
  return counters;
}

}  // namespace

const char* NameOf(EndReason reason) {
  switch (reason) {
    case EndReason::kStopToken:
      return "stop_token";
    case EndReason::kStopString:
      return "stop_string";
    case EndReason::kLength:
      return "length";
    case EndReason::kCancelled:
      return "cancelled";
    case EndReason::kError:
      return "error";
  }
  return "unknown";
}

GatewayMetrics::GatewayMetrics(MetricsRegistry& registry)
    : requests_started(registry.AddCounter("caravan_gateway_requests_started_total",
                                           "Requests that came to admission.")),
      requests_finished(FinishedByReason(registry)),
      errors(ErrorsByCode(registry)),
      queued_requests(registry.AddGauge("caravan_gateway_queued_requests", "Requests that wait.")),
      inflight_requests(
          registry.AddGauge("caravan_gateway_inflight_requests", "Requests in flight.")),
      replicas_ready(registry.AddGauge("caravan_gateway_replicas_ready",
                                       "Replicas that new requests are sent to.")),
      tokenizers_ready(registry.AddGauge("caravan_gateway_tokenizers_ready",
                                         "Tokenizer services with a decode session.")),
      open_calls(registry.AddGauge("caravan_gateway_open_calls",
                                   "Generate and Session calls of clients.")),
      refusals(
          registry.AddCounter("caravan_gateway_refusals_total", "Requests refused by admission.")),
      slow_readers(registry.AddCounter("caravan_gateway_slow_readers_total",
                                       "Requests ended because their client read too slowly.")),
      unknown_cancels(registry.AddCounter("caravan_gateway_unknown_cancels_total",
                                          "Cancels and credits for ids that don't run.")),
      reroutes(registry.AddCounter("caravan_gateway_reroutes_total",
                                   "Requests sent to another replica before their first token.")),
      stale_events(registry.AddCounter(
          "caravan_gateway_stale_events_total",
          "Worker events dropped: of an older instance, epoch or attempt, or a repeat.")),
      prompt_tokens(registry.AddCounter("caravan_gateway_prompt_tokens_total", "Prompt tokens.")),
      cached_prompt_tokens(registry.AddCounter("caravan_gateway_cached_prompt_tokens_total",
                                               "Prompt tokens found in prefix caches.")),
      generated_tokens(
          registry.AddCounter("caravan_gateway_generated_tokens_total", "Tokens delivered.")),
      time_to_first_token_seconds(
          registry.AddHistogram("caravan_gateway_time_to_first_token_seconds",
                                "Arrival to first token out of the decoder.", LatencyBuckets())),
      inter_token_seconds(registry.AddHistogram("caravan_gateway_inter_token_seconds",
                                                "Between tokens of one sequence.",
                                                LatencyBuckets())),
      request_seconds(registry.AddHistogram("caravan_gateway_request_seconds", "Arrival to end.",
                                            LatencyBuckets())),
      queue_seconds(registry.AddHistogram("caravan_gateway_queue_seconds",
                                          "Arrival to submission to a worker.", LatencyBuckets())) {
}

}  // namespace caravan
