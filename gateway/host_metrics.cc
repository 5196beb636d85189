#include "gateway/host_metrics.h"

#include <prometheus/metric_family.h>

#include <fstream>
#include <sstream>
#include <utility>

namespace caravan {
namespace {

using prometheus::MetricFamily;

MetricFamily MakeGauge(const char* name, const char* help, double value) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = prometheus::MetricType::Gauge;
  family.metric.emplace_back().gauge.value = value;
  return family;
}

// A "MemTotal:  123 kB" line of /proc/meminfo, in bytes; 0 where there is none.
double MemoryBytes(const std::string& meminfo, const std::string& name) {
  const size_t begin = meminfo.find(name + ":");
  if (begin == std::string::npos) return 0;
  double kilobytes = 0;
  std::istringstream(meminfo.substr(begin + name.size() + 1)) >> kilobytes;
  return kilobytes * 1024;
}

}  // namespace

HostMetrics::HostMetrics(std::string proc_folder)
    : proc_folder_(std::move(proc_folder)),
      last_(ReadCpuTimes()),
      last_time_(std::chrono::steady_clock::now()) {}

// The first line of /proc/stat: cpu, then ticks as user, nice, system, idle, iowait, irq, softirq,
// steal (guests are counted in user already).
HostMetrics::CpuTimes HostMetrics::ReadCpuTimes() const {
  std::ifstream file(proc_folder_ + "/stat");
  std::string word;
  file >> word;
  CpuTimes times;
  uint64_t ticks = 0;
  for (int i = 0; i < 8 && file >> ticks; ++i) {
    times.all += ticks;
    if (i != 3 && i != 4) times.busy += ticks;
  }
  return times;
}

double HostMetrics::Utilization() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  const CpuTimes times = ReadCpuTimes();
  if (now - last_time_ < std::chrono::seconds(1) || times.all <= last_.all) return utilization_;
  utilization_ =
      static_cast<double>(times.busy - last_.busy) / static_cast<double>(times.all - last_.all);
  last_ = times;
  last_time_ = now;
  return utilization_;
}

std::vector<MetricFamily> HostMetrics::Collect() const {
  std::ifstream file(proc_folder_ + "/meminfo");
  std::stringstream meminfo;
  meminfo << file.rdbuf();
  const double total = MemoryBytes(meminfo.str(), "MemTotal");
  const double available = MemoryBytes(meminfo.str(), "MemAvailable");
  return {
      MakeGauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", Utilization()),
      MakeGauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", total),
      MakeGauge("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", total - available)};
}

}  // namespace caravan
