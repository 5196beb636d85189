#include "worker/metrics.h"

#include <string>

namespace caravan {
namespace {

// From 10 µs to 10 s: a step of a tiny model to one of a large one on a CPU.
std::vector<double> StepBuckets() {
  return {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01,
          0.02, 0.05, 0.1,  0.2,  0.5,  1,    2,    5,    10};
}

Gauge& Blocks(MetricsRegistry* registry, const char* state) {
  return registry->AddGauge("caravan_worker_kv_blocks", "KV blocks by state.", {{"state", state}});
}

Counter& Requests(MetricsRegistry* registry, const char* outcome) {
  return registry->AddCounter("caravan_worker_requests_total", "Requests by how they ended.",
                              {{"outcome", outcome}});
}

Histogram& StepPhase(MetricsRegistry* registry, const char* phase) {
  return registry->AddHistogram("caravan_worker_step_seconds",
                                "Where a step's time goes: planning it, handing it to the ranks, "
                                "waiting for its result, running it.",
                                StepBuckets(), {{"phase", phase}});
}

}  // namespace

WorkerMetrics::WorkerMetrics(MetricsRegistry* registry, int tensor_parallel)
    : ready(registry->AddGauge("caravan_worker_ready", "1 while requests can be served.")),
      model_loaded(registry->AddGauge("caravan_worker_model_loaded",
                                      "1 while the model is in memory, 0 while it is unloaded.")),
      epoch(registry->AddGauge("caravan_worker_epoch", "Groups of ranks formed since start.")),
      load_seconds(registry->AddGauge("caravan_worker_load_seconds", "Time to load the weights.")),
      waiting_requests(
          registry->AddGauge("caravan_worker_waiting_requests", "Requests that have not begun.")),
      running_sequences(
          registry->AddGauge("caravan_worker_running_sequences", "Sequences with KV memory.")),
      free_blocks(Blocks(registry, "free")),
      used_blocks(Blocks(registry, "used")),
      cached_blocks(Blocks(registry, "cached")),
      steps(registry->AddCounter("caravan_worker_steps_total", "Steps run.")),
      prompt_tokens(
          registry->AddCounter("caravan_worker_prompt_tokens_total", "Prompt tokens computed.")),
      cached_prompt_tokens(
          registry->AddCounter("caravan_worker_prefix_hit_tokens_total",
                               "Prompt tokens found in the prefix cache and not computed.")),
      generated_tokens(
          registry->AddCounter("caravan_worker_generated_tokens_total", "Tokens generated.")),
      preemptions(registry->AddCounter("caravan_worker_preemptions_total",
                                       "Sequences put back because KV blocks ran out.")),
      finished_requests(Requests(registry, "finished")),
      cancelled_requests(Requests(registry, "cancelled")),
      refused_requests(Requests(registry, "refused")),
      nonfinite_logits(
          registry->AddCounter("caravan_worker_nonfinite_logits_total",
                               "Requests that ended because the model's logits were not numbers.")),
      closed_sessions(registry->AddCounter("caravan_worker_sessions_closed_total",
                                           "Sessions of gateways that ended.")),
      plan_seconds(StepPhase(registry, "plan")),
      submit_seconds(StepPhase(registry, "submit")),
      collect_seconds(StepPhase(registry, "collect")),
      run_seconds(StepPhase(registry, "run")) {
  for (int rank = 0; rank < tensor_parallel; ++rank) {
    const Labels labels = {{"rank", std::to_string(rank)}};
    rank_steps.push_back(
        &registry->AddGauge("caravan_worker_rank_step", "Last step that a rank finished.", labels));
    rank_memory_bytes.push_back(&registry->AddGauge(
        "caravan_worker_rank_memory_bytes", "Resident memory of a rank's process.", labels));
    gpu_memory_used_bytes.push_back(&registry->AddGauge(
        "caravan_worker_gpu_memory_used_bytes",
        "Memory in use on a rank's GPU, by all processes together; 0 on the CPU.", labels));
    gpu_memory_total_bytes.push_back(
        &registry->AddGauge("caravan_worker_gpu_memory_total_bytes",
                            "Memory that a rank's GPU has; 0 on the CPU.", labels));
  }
}

void WorkerMetrics::Update(const EngineStats& stats, bool is_ready, uint64_t now_epoch) {
  const auto grow = [](Counter& counter, uint64_t now, uint64_t before) {
    if (now > before) counter.Increment(static_cast<double>(now - before));
  };
  ready.Set(is_ready ? 1 : 0);
  epoch.Set(static_cast<double>(now_epoch));
  waiting_requests.Set(stats.waiting_requests);
  running_sequences.Set(stats.running_sequences);
  free_blocks.Set(stats.free_blocks);
  used_blocks.Set(stats.used_blocks);
  cached_blocks.Set(stats.cached_blocks);
  grow(steps, stats.steps, last_.steps);
  grow(prompt_tokens, stats.prompt_tokens, last_.prompt_tokens);
  grow(cached_prompt_tokens, stats.cached_tokens, last_.cached_tokens);
  grow(generated_tokens, stats.generated_tokens, last_.generated_tokens);
  grow(preemptions, stats.preemptions, last_.preemptions);
  grow(finished_requests, stats.finished, last_.finished);
  grow(cancelled_requests, stats.cancelled, last_.cancelled);
  grow(nonfinite_logits, stats.nonfinite_logits, last_.nonfinite_logits);
  last_ = stats;
}

void WorkerMetrics::UpdateRanks(const std::vector<v1::WorkerRank>& ranks) {
  for (const v1::WorkerRank& rank : ranks) {
    if (rank.rank() >= rank_steps.size()) continue;
    rank_steps[rank.rank()]->Set(static_cast<double>(rank.step()));
    rank_memory_bytes[rank.rank()]->Set(static_cast<double>(rank.memory_bytes()));
    gpu_memory_used_bytes[rank.rank()]->Set(static_cast<double>(rank.device_memory_bytes()));
    gpu_memory_total_bytes[rank.rank()]->Set(static_cast<double>(rank.device_total_bytes()));
  }
}

void WorkerMetrics::Observe(const StepTiming& timing) {
  plan_seconds.Observe(timing.plan_seconds);
  submit_seconds.Observe(timing.submit_seconds);
  collect_seconds.Observe(timing.collect_seconds);
  run_seconds.Observe(timing.run_seconds);
}

}  // namespace caravan
