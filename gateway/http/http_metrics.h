// What the HTTP server counts; names begin with caravan_gateway_http_.
#pragma once

#include <array>

#include "common/metrics.h"

namespace caravan {

// References into a registry, which outlives this. Thread-safe.
struct HttpMetrics {
  explicit HttpMetrics(MetricsRegistry& registry);

  Gauge& connections;
  Counter& refused_connections;       // over the limit
  std::array<Counter*, 6> responses;  // by the first digit of the status
  Counter& response(int status) { return *responses[status / 100 % responses.size()]; }
  Counter& gone_clients;  // left before their answer was complete
  Counter& slow_readers;  // cut off
  Gauge& body_bytes;      // of requests being read or answered
};

}  // namespace caravan
