// Metrics of a worker: caravan_worker_*.
#pragma once

#include <vector>

#include "caravan/v1/worker.pb.h"
#include "common/metrics.h"
#include "worker/engine/engine.h"

namespace caravan {

struct WorkerMetrics {
  WorkerMetrics(MetricsRegistry* registry, int tensor_parallel);

  // What grew since the last call is added. One thread at a time.
  void Update(const EngineStats& stats, bool ready, uint64_t epoch);
  void UpdateRanks(const std::vector<v1::WorkerRank>& ranks);
  // One step, on the engine's thread.
  void Observe(const StepTiming& timing);

  Gauge& ready;
  Gauge& model_loaded;
  Gauge& epoch;
  Gauge& load_seconds;
  Gauge& waiting_requests;
  Gauge& running_sequences;
  Gauge& free_blocks;
  Gauge& used_blocks;
  Gauge& cached_blocks;
  Counter& steps;
  Counter& prompt_tokens;
  Counter& cached_prompt_tokens;
  Counter& generated_tokens;
  Counter& preemptions;
  Counter& finished_requests;
  Counter& cancelled_requests;
  Counter& refused_requests;
  Counter& nonfinite_logits;
  Counter& closed_sessions;
  Histogram& plan_seconds;
  Histogram& submit_seconds;
  Histogram& collect_seconds;
  Histogram& run_seconds;
  std::vector<Gauge*> rank_steps;         // by rank: the last step that it finished
  std::vector<Gauge*> rank_memory_bytes;  // by rank
  std::vector<Gauge*> gpu_memory_used_bytes;
  std::vector<Gauge*> gpu_memory_total_bytes;

 private:
  EngineStats last_;
};

}  // namespace caravan
