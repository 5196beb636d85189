// The host's GPUs, as the nv_gpu_* metrics of Triton Inference Server have them.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace caravan {

struct NvmlFunctions;

// From NVIDIA's management library, which is loaded where there is one; no metrics where not. Any
// thread.
class GpuMetrics final : public prometheus::Collectable {
 public:
  explicit GpuMetrics(const std::string& library = "libnvidia-ml.so.1");
  ~GpuMetrics() override;
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  double EnergySinceStart(const std::string& uuid, double joules) const;

  std::unique_ptr<NvmlFunctions> nvml_;  // nullptr: no library, or no driver
  mutable std::mutex mutex_;
  mutable std::map<std::string, double> first_energy_;  // joules, by UUID; guarded by mutex_
};

}  // namespace caravan
