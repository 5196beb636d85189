#include "gateway/triton/metrics.h"

#include <cmath>
#include <string>
#include <utility>

#include "gateway/triton/inference_server.h"

namespace caravan {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct ModelMetric {
  const char* name;
  const char* help;
  double (*value)(const ModelStatistics&);
};

double Microseconds(const DurationStatistic& duration) {
  return std::floor(static_cast<double>(duration.ns) / 1000);
}

constexpr ModelMetric kCounters[] = {
    {"nv_inference_request_success", "Number of successful inference requests, all batch sizes",
     [](const ModelStatistics& model) { return static_cast<double>(model.success.count); }},
    {"nv_inference_count", "Number of inferences performed (does not include cached requests)",
     [](const ModelStatistics& model) { return static_cast<double>(model.inference_count); }},
    {"nv_inference_exec_count",
     "Number of model executions performed (does not include cached requests)",
     [](const ModelStatistics& model) { return static_cast<double>(model.execution_count); }},
    {"nv_inference_request_duration_us",
     "Cumulative inference request duration in microseconds (includes cached requests)",
     [](const ModelStatistics& model) { return Microseconds(model.success); }},
    {"nv_inference_queue_duration_us",
     "Cumulative inference queuing duration in microseconds (includes cached requests)",
     [](const ModelStatistics& model) { return Microseconds(model.queue); }},
    {"nv_inference_compute_input_duration_us",
     "Cumulative compute input duration in microseconds (does not include cached requests)",
     [](const ModelStatistics& model) { return Microseconds(model.compute_input); }},
    {"nv_inference_compute_infer_duration_us",
     "Cumulative compute inference duration in microseconds (does not include cached requests)",
     [](const ModelStatistics& model) { return Microseconds(model.compute_infer); }},
    {"nv_inference_compute_output_duration_us",
     "Cumulative inference compute output duration in microseconds (does not include cached "
     "requests)",
     [](const ModelStatistics& model) { return Microseconds(model.compute_output); }},
};

std::vector<ClientMetric::Label> LabelsOf(const ModelStatistics& model) {
  return {{"model", model.name}, {"version", model.version}};
}

MetricFamily MakeFamily(const char* name, const char* help, MetricType type) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

struct LatencySummary {
  const char* name;
  const char* help;
  prometheus::Summary LatencyMetrics::*summary;
};

constexpr LatencySummary kSummaries[] = {
    {"nv_inference_request_summary_us",
     "Summary of inference request duration in microseconds (includes cached requests)",
     &LatencyMetrics::request},
    {"nv_inference_queue_summary_us",
     "Summary of inference queuing duration in microseconds (includes cached requests)",
     &LatencyMetrics::queue},
    {"nv_inference_compute_input_summary_us",
     "Summary of compute input duration in microseconds (does not include cached requests)",
     &LatencyMetrics::compute_input},
    {"nv_inference_compute_infer_summary_us",
     "Summary of compute inference duration in microseconds (does not include cached requests)",
     &LatencyMetrics::compute_infer},
    {"nv_inference_compute_output_summary_us",
     "Summary of inference compute output duration in microseconds (does not include cached "
     "requests)",
     &LatencyMetrics::compute_output},
};

MetricFamily FailuresOf(const std::vector<ModelStatistics>& models) {
  MetricFamily family =
      MakeFamily("nv_inference_request_failure",
                 "Number of failed inference requests, all batch sizes", MetricType::Counter);
  for (const ModelStatistics& model : models) {
    for (int reason = 0; reason < kNumFailureReasons; ++reason) {
      ClientMetric metric;
      metric.label = LabelsOf(model);
      metric.label.push_back({"reason", NameOf(static_cast<FailureReason>(reason))});
      metric.counter.value = static_cast<double>(model.failures[static_cast<size_t>(reason)]);
      family.metric.push_back(std::move(metric));
    }
  }
  return family;
}

}  // namespace

// Families that have no model are left out: the distributions are opt-in.
void TritonMetrics::AddLatencies(const std::vector<ModelStatistics>& models,
                                 std::vector<MetricFamily>* families) const {
  MetricFamily first =
      MakeFamily("nv_inference_first_response_histogram_ms",
                 "Duration from request to first response in milliseconds", MetricType::Histogram);
  for (const ModelStatistics& model : models) {
    const LatencyMetrics* latencies = server_->Latencies(model.name);
    if (latencies == nullptr) return;
    if (!server_->AnswersMoreThanOnce(model.name)) continue;  // as Triton: decoupled models alone
    first.metric.push_back(latencies->first_response.Collect());
    first.metric.back().label = LabelsOf(model);
  }
  if (!first.metric.empty()) families->push_back(std::move(first));
  for (const LatencySummary& entry : kSummaries) {
    MetricFamily family = MakeFamily(entry.name, entry.help, MetricType::Summary);
    for (const ModelStatistics& model : models) {
      family.metric.push_back((server_->Latencies(model.name)->*entry.summary).Collect());
      family.metric.back().label = LabelsOf(model);
    }
    families->push_back(std::move(family));
  }
}

std::vector<MetricFamily> TritonMetrics::Collect() const {
  const std::vector<ModelStatistics> models = server_->AllStatistics();
  std::vector<MetricFamily> families = {FailuresOf(models)};
  for (const ModelMetric& counter : kCounters) {
    MetricFamily family = MakeFamily(counter.name, counter.help, MetricType::Counter);
    for (const ModelStatistics& model : models) {
      ClientMetric metric;
      metric.label = LabelsOf(model);
      metric.counter.value = counter.value(model);
      family.metric.push_back(std::move(metric));
    }
    families.push_back(std::move(family));
  }
  MetricFamily pending = MakeFamily(
      "nv_inference_pending_request_count",
      "Instantaneous number of pending requests awaiting execution per-model.", MetricType::Gauge);
  for (const ModelStatistics& model : models) {
    ClientMetric metric;
    metric.label = LabelsOf(model);
    metric.gauge.value = static_cast<double>(model.pending_requests);
    pending.metric.push_back(std::move(metric));
  }
  families.push_back(std::move(pending));
  AddLatencies(models, &families);
  return families;
}

}  // namespace caravan
