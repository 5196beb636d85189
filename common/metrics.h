// Prometheus metrics over HTTP. A service's metrics.h is a struct of references built from a
// registry in main.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace prometheus {
class Exposer;
}

namespace caravan {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using Labels = std::map<std::string, std::string>;

// Makes metrics of one process. Names end in their unit; counters in _total.
class MetricsRegistry {
 public:
  MetricsRegistry();

  Counter& AddCounter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  // `bounds`: upper bounds of the buckets, ascending.
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          const std::vector<double>& bounds, const Labels& labels = {});

  // Metrics that are made when they are asked for, by the metrics server's thread.
  void Add(std::shared_ptr<prometheus::Collectable> collectable) {
    collectables_.push_back(std::move(collectable));
  }

  std::shared_ptr<prometheus::Registry> registry() const { return registry_; }
  const std::vector<std::shared_ptr<prometheus::Collectable>>& collectables() const {
    return collectables_;
  }

 private:
  std::vector<std::shared_ptr<prometheus::Collectable>> collectables_;
  std::shared_ptr<prometheus::Registry> registry_;
};

// Buckets from 1 ms to 60 s for latencies, in seconds.
std::vector<double> LatencyBuckets();

// Serves a registry at http://ADDRESS/metrics.
class MetricsServer {
 public:
  // UNAVAILABLE with the address where it can't be had, INVALID_ARGUMENT for one of IPv6, which
  // civetweb as distributions build it has not. Port 0 = a free one. `metrics`, which is
  // complete by now, outlives the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& listen_address,
                                                              const MetricsRegistry& metrics);
  ~MetricsServer();

  int port() const { return port_; }

 private:
  MetricsServer();

  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

}  // namespace caravan
