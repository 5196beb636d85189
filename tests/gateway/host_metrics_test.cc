#include "gateway/host_metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "gateway/gpu_metrics.h"

namespace caravan {
namespace {

// Values by name, and the label after a slash.
std::map<std::string, double> ValuesOf(const std::vector<prometheus::MetricFamily>& families) {
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : families) {
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::string name = family.name;
      for (const auto& label : metric.label) name += "/" + label.value;
      values[name] = family.type == prometheus::MetricType::Counter ? metric.counter.value
                                                                    : metric.gauge.value;
    }
  }
  return values;
}

TEST(HostMetrics, ReadsProc) {
  char folder[] = "/tmp/caravan-proc-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string proc = folder;
  std::ofstream(proc + "/stat") << "cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 2 3 4\n";
  std::ofstream(proc + "/meminfo") << "MemTotal:       2000 kB\nMemFree: 1 kB\n"
                                      "MemAvailable:    500 kB\n";
  HostMetrics metrics(proc);
  auto values = ValuesOf(metrics.Collect());
  EXPECT_EQ(values["nv_cpu_memory_total_bytes"], 2000 * 1024);
  EXPECT_EQ(values["nv_cpu_memory_used_bytes"], 1500 * 1024);
  EXPECT_EQ(values["nv_cpu_utilization"], 0);  // no second has passed
  unlink((proc + "/stat").c_str());
  unlink((proc + "/meminfo").c_str());
  rmdir(folder);
  values = ValuesOf(metrics.Collect());  // what can't be read is 0, and nothing breaks
  EXPECT_EQ(values["nv_cpu_memory_total_bytes"], 0);
}

TEST(HostMetrics, ReadsThisHost) {
  const auto values = ValuesOf(HostMetrics().Collect());
  EXPECT_GT(values.at("nv_cpu_memory_total_bytes"), values.at("nv_cpu_memory_used_bytes"));
  EXPECT_GT(values.at("nv_cpu_memory_used_bytes"), 0);
}

TEST(GpuMetrics, WithoutALibraryThereAreNone) {
  EXPECT_TRUE(GpuMetrics("/no/such/library.so").Collect().empty());
}

TEST(GpuMetrics, AsksTheLibraryInItsUnits) {
  const GpuMetrics metrics(CARAVAN_FAKE_NVML);
  const auto values = ValuesOf(metrics.Collect());
  EXPECT_EQ(values.at("nv_gpu_utilization/GPU-one"), 0.25);
  EXPECT_EQ(values.at("nv_gpu_memory_total_bytes/GPU-two"), 1000);
  EXPECT_EQ(values.at("nv_gpu_memory_used_bytes/GPU-two"), 600);
  EXPECT_EQ(values.at("nv_gpu_power_usage/GPU-one"), 1.5);
  EXPECT_EQ(values.at("nv_gpu_power_limit/GPU-one"), 3);
  EXPECT_EQ(values.count("nv_gpu_power_usage/GPU-two"), 0);
  EXPECT_GT(values.at("nv_energy_consumption/GPU-one"), 0);  // since the metrics began
  EXPECT_LT(values.at("nv_energy_consumption/GPU-one"), 5);
  EXPECT_EQ(values.count("nv_energy_consumption/GPU-two"), 0);
}

}  // namespace
}  // namespace caravan
