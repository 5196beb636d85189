// How long a model's requests and their parts took, as distributions: Triton's opt-in metrics.
#pragma once

#include <prometheus/histogram.h>
#include <prometheus/summary.h>

namespace caravan {

// Summaries in microseconds over the last minute; the histogram is of the time to the first
// response of streaming requests, in milliseconds. Thread-safe.
struct LatencyMetrics {
  LatencyMetrics();

  prometheus::Summary request;
  prometheus::Summary queue;
  prometheus::Summary compute_input;
  prometheus::Summary compute_infer;
  prometheus::Summary compute_output;
  prometheus::Histogram first_response;
};

}  // namespace caravan
