#include "gateway/http/http_metrics.h"

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

std::array<Counter*, 6> ResponsesByClass(MetricsRegistry& registry) {
  std::array<Counter*, 6> counters{};
  for (int i = 0; i < 6; ++i) {
    counters[i] = &registry.AddCounter("caravan_gateway_http_responses_total",
                                       "HTTP responses by the class of their status.",
                                       {{"class", i == 0 ? "other" : absl::StrCat(i, "xx")}});
  }
  return counters;
}

}  // namespace

HttpMetrics::HttpMetrics(MetricsRegistry& registry)
    : connections(registry.AddGauge("caravan_gateway_http_connections", "Open HTTP connections.")),
      refused_connections(registry.AddCounter("caravan_gateway_http_refused_connections_total",
                                              "HTTP connections over the limit.")),
      responses(ResponsesByClass(registry)),
      gone_clients(registry.AddCounter("caravan_gateway_http_gone_clients_total",
                                       "HTTP clients that left before their answer was complete.")),
      slow_readers(registry.AddCounter("caravan_gateway_http_slow_readers_total",
                                       "HTTP clients cut off because they read too slowly.")),
      body_bytes(registry.AddGauge("caravan_gateway_http_body_bytes",
                                   "Bodies of HTTP requests being read or answered.")) {}

}  // namespace caravan
