// The engine: decides what runs in each step (design: docs/architecture.md, "Life of a request",
// Schedule to Deliver).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/engine/model_runner.h"
#include "worker/engine/request.h"

namespace caravan {

// Where the time of one step went, for metrics. Steady-clock seconds.
struct StepTiming {
  double plan_seconds = 0;
  double submit_seconds = 0;
  double collect_seconds = 0;    // waiting for the result: 0 means that the runner was idle before
  double run_seconds = 0;        // what the runner reported
  double predicted_seconds = 0;  // what the cost model expected; 0 while it is unknown
  int32_t tokens = 0;
  int32_t sequences = 0;
};

struct EngineOptions {
  int32_t max_batch_tokens = 2048;         // token budget of a step, capped by the runner's
  int32_t max_prefill_chunk_tokens = 512;  // most prompt tokens of one sequence in one step
  int32_t max_running_sequences = 256;     // capped by the runner's slots
  int32_t max_waiting_requests = 4096;     // beyond, Submit is refused with RESOURCE_EXHAUSTED
  double step_time_target_ms =
      0;  // > 0: prefill is cut so that the predicted step time stays within
  bool enable_prefix_cache = true;
  bool pipelined = true;          // false: the simple loop, one step at a time (the reference)
  int32_t pipeline_depth = 2;     // steps in flight when pipelined
  bool check_invariants = false;  // BlockPool and slots after each step; always on in debug builds
  // Called after each collected step, on the engine's thread: must not block. May be empty.
  std::function<void(const StepTiming&)> on_step;
};

// A snapshot of load, for GetStatus, routing and metrics.
struct EngineStats {
  int32_t waiting_requests = 0;  // that did not begin yet
  int32_t running_sequences = 0;
  int32_t free_blocks = 0;
  int32_t cached_blocks = 0;  // evictable, content kept for sharing
  int32_t used_blocks = 0;
  int32_t total_blocks = 0;
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;  // computed
  uint64_t cached_tokens = 0;  // prompt tokens that were not computed because they were cached
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t cancelled = 0;             // requests
  uint64_t finished = 0;              // requests that ended otherwise
  uint64_t nonfinite_logits = 0;      // those of them for which the model gave no numbers
  double last_step_seconds = 0;       // run time of the last collected step
  double predicted_step_seconds = 0;  // of the step submitted last; 0 while unknown
  bool recovering = false;
  bool draining = false;
};

// All news of one step, in one call, on the engine's thread: must not block. Requests that end for
// another reason (cancelled, deadline, error) come the same way.
using EventSink = std::function<void(std::vector<TokenEvent> events)>;

class Engine {
 public:
  // `runner` outlives the engine. `now` is the clock (injected by tests).
  Engine(const EngineOptions& options, ModelRunner* runner, EventSink sink,
         std::function<absl::Time()> now = absl::Now);
  ~Engine();  // stops

  // Any thread. Refusals are immediate and reach no one else: INVALID_ARGUMENT (a prompt that can't
  // ever fit, with both numbers), RESOURCE_EXHAUSTED (queue full; a resumed request is taken all
  // the same), UNAVAILABLE (draining or stopped), ALREADY_EXISTS (key in use). A key can be used
  // again from the moment its last event is delivered.
  absl::Status Submit(Request request);

  // Any thread; an unknown key is ignored. The sequences leave at the next step with
  // FinishReason::kCancelled.
  void Cancel(RequestKey key);

  // Any thread: the runner's status() may have changed. An idle engine recovers at once, so that
  // its next request does not find out.
  void Wake();

  // Any thread.
  EngineStats Stats() const;

  // Starts / ends the engine's thread. Stop fails what is in flight with UNAVAILABLE. Drain refuses
  // new requests and returns true once nothing is left and all events were delivered, false at the
  // time-out. None of them may be called by the EventSink.
  void Start();
  bool Drain(absl::Duration timeout);
  void Stop();

  // OK while running; the runner's error once it was fatal (the process should then end).
  absl::Status status() const;

  // One turn of the loop without a thread (tests): false where there was nothing to do. The loop
  // submits as many steps as may be in flight, then collects one.
  bool StepOnce();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace caravan
