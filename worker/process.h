// A worker process of either role: what it loads, where it listens, how it ends.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/metrics.h"
#include "common/server.h"
#include "common/shutdown_signal.h"
#include "worker/config.h"
#include "worker/device.h"
#include "worker/metrics.h"
#include "worker/model/runner/llama_runner.h"
#include "worker/replica/rank_runner.h"
#include "worker/service.h"

namespace caravan {

// Resident memory of this process.
uint64_t ResidentBytes();

// kBuildVersion, and the flags that change what a rank runs: all ranks of a replica must have equal
// ones, or their collectives would not meet. CUDA graphs are for CUDA alone: on the CPU that flag
// changes nothing.
std::string BuildVersion(const WorkerConfig& config);

// What both roles have: configuration, metrics and the instance id of this process life.
struct WorkerContext {
  WorkerContext(const WorkerConfig& config, ShutdownSignal* signal);

  const WorkerConfig config;
  ShutdownSignal* const signal;
  const uint64_t instance;
  MetricsRegistry registry;
  WorkerMetrics metrics;
};

// The ports of a worker, open from its start.
class WorkerServer {
 public:
  // UNAVAILABLE with the address that can't be had, or the port file that can't be written.
  absl::Status Start(const WorkerConfig& config, const MetricsRegistry& registry,
                     const std::vector<grpc::Service*>& services);

  void SetServing(bool serving) { grpc_->SetServing(serving); }
  void Shutdown(absl::Time deadline) { grpc_->Shutdown(deadline); }

 private:
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<MetricsServer> metrics_;
};

// The model's runner as the replica sees it.
class LlamaRankRunner final : public RankRunner {
 public:
  explicit LlamaRankRunner(std::unique_ptr<LlamaRunner> runner) : runner_(std::move(runner)) {}

  const LlamaModel& model() const { return runner_->model(); }
  const RunnerLimits& limits() const override { return runner_->limits(); }
  absl::Status Submit(const StepPlan& plan) override { return runner_->Submit(plan); }
  absl::StatusOr<StepResult> Collect() override { return runner_->Collect(); }
  void Reset(std::shared_ptr<Collectives> ranks) override { runner_->Reset(std::move(ranks)); }
  absl::Status AwaitEpoch(absl::Duration timeout) override { return runner_->AwaitEpoch(timeout); }
  RankProgress progress() const override {
    const StepProgress progress = runner_->progress();
    return {progress.steps_done, progress.layers_done, progress.work_done, progress.busy};
  }

 private:
  const std::unique_ptr<LlamaRunner> runner_;
};

// A number that differs whenever the rank has finished another layer or step.
inline uint64_t NumberOf(const RankProgress& progress) {
  return (progress.steps_done << 16) + static_cast<uint64_t>(progress.layers_done);
}

// Loads this rank's part of the model and allocates its KV blocks, with progress in the log and in
// `service`. No epoch stands yet.
absl::StatusOr<std::unique_ptr<LlamaRankRunner>> LoadRunner(const WorkerConfig& config,
                                                            const WorkerDevice& device,
                                                            WorkerService* service);

// After the model of LoadRunner has gone: gives back to the system what the allocators still keep.
void ReturnFreeMemory();

// What a rank tells of its device.
void DescribeDevice(const WorkerDevice& device, v1::WorkerRank* rank);

// Ends the process with 1: a thread that hangs in a device's driver can't be joined, and whoever
// supervises the process starts the next.
[[noreturn]] void EndWedged(const std::string& why);

// A rank until SIGTERM to any rank has drained the replica, or a failure. Returns the exit code: 0
// drained, 1 failed.
int RunLeader(const WorkerConfig& config, ShutdownSignal* signal);
int RunFollower(const WorkerConfig& config, ShutdownSignal* signal);

}  // namespace caravan
