// The host's processor and memory, as the nv_cpu_* metrics of Triton Inference Server have them.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace caravan {

// From /proc. Utilization is that of the time between two looks, at least a second apart. Any
// thread.
class HostMetrics : public prometheus::Collectable {
 public:
  explicit HostMetrics(std::string proc_folder = "/proc");
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  struct CpuTimes {
    uint64_t busy = 0;
    uint64_t all = 0;
  };
  CpuTimes ReadCpuTimes() const;
  double Utilization() const;

  const std::string proc_folder_;
  mutable std::mutex mutex_;
  mutable CpuTimes last_;                                    // guarded by mutex_
  mutable std::chrono::steady_clock::time_point last_time_;  // guarded by mutex_
  mutable double utilization_ = 0;                           // guarded by mutex_
};

}  // namespace caravan
