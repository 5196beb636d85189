#include "gateway/triton/latency_metrics.h"

namespace caravan {
namespace {

// Triton's defaults: quantiles and their errors, and the buckets.
prometheus::Summary::Quantiles Quantiles() {
  return {{0.5, 0.05}, {0.9, 0.01}, {0.95, 0.001}, {0.99, 0.001}, {0.999, 0.001}};
}

}  // namespace

LatencyMetrics::LatencyMetrics()
    : request(Quantiles()),
      queue(Quantiles()),
      compute_input(Quantiles()),
      compute_infer(Quantiles()),
      compute_output(Quantiles()),
      first_response({100, 500, 2000, 5000}) {}

}  // namespace caravan
