// The nv_inference_* metrics of Triton Inference Server: names, labels and meaning are its own.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <vector>

namespace caravan {

class InferenceServer;
struct ModelStatistics;

// Made from the models' statistics when Prometheus asks. Any thread. `server` outlives it.
class TritonMetrics : public prometheus::Collectable {
 public:
  explicit TritonMetrics(const InferenceServer* server) : server_(server) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  void AddLatencies(const std::vector<ModelStatistics>& models,
                    std::vector<prometheus::MetricFamily>* families) const;

  const InferenceServer* const server_;
};

}  // namespace caravan
