// A RankRunner that computes nothing but meets the other ranks as a model would: each step is an
// all-reduce that every rank must join with the same step number, and a broadcast from rank 0.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "common/status.h"
#include "worker/replica/rank_runner.h"

namespace caravan {

class FakeRankRunner final : public RankRunner {
 public:
  explicit FakeRankRunner(const RunnerLimits& limits) : limits_(limits) {}

  static RunnerLimits DefaultLimits() {
    RunnerLimits limits;
    limits.block_tokens = 4;
    limits.num_blocks = 100;
    limits.max_slots = 8;
    limits.max_batch_tokens = 64;
    limits.max_context_tokens = 128;
    limits.vocab_size = 1000;
    return limits;
  }

  const RunnerLimits& limits() const override { return limits_; }

  absl::Status Submit(const StepPlan& plan) override {
    CARAVAN_CHECK(static_cast<int>(plans_.size()) < limits_.max_steps_in_flight);
    if (!failure_.ok()) return failure_;
    plans_.push_back(plan);
    SetBusy(true);
    return absl::OkStatus();
  }

  // The token of each sampling slot: the sum over ranks of (step + rank), from rank 0.
  absl::StatusOr<StepResult> Collect() override {
    CARAVAN_CHECK(!plans_.empty());
    if (!failure_.ok()) return failure_;
    const StepPlan plan = plans_.front();
    plans_.pop_front();
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !held_; });
    }
    float sum = static_cast<float>(plan.step) + static_cast<float>(ranks_->rank());
    absl::Status status =
        ranks_->AllReduceSum(DenseMatrix(&sum, DType::kFloat32, 1, 1), DeviceStream::Cpu());
    auto token = static_cast<int32_t>(sum);
    if (status.ok()) status = ranks_->Broadcast(&token, sizeof(token), 0);
    if (plans_.empty() || !status.ok()) SetBusy(false);
    if (!status.ok()) {
      failure_ = status;
      return status;
    }
    StepResult result;
    result.step = plan.step;
    for (const SlotWork& work : plan.work) {
      if (work.sample) result.slots.push_back({work.slot, {{token, 0, {}}}});
    }
    const std::lock_guard lock(mutex_);
    ++steps_done_;
    return result;
  }

  void Reset(std::shared_ptr<Collectives> ranks) override {
    plans_.clear();
    failure_ = absl::OkStatus();
    const std::lock_guard lock(mutex_);
    ranks_ = std::move(ranks);
    busy_ = false;
    ++epochs_;
  }

  absl::Status AwaitEpoch(absl::Duration) override {
    const std::lock_guard lock(mutex_);
    return preparation_;
  }

  // What follows is for any thread. Steps hang from Hold to Release, wherever their group stands.
  void Hold() { SetHeld(true); }
  void Release() { SetHeld(false); }
  // The group fails by itself.
  void BreakGroup() {
    const std::lock_guard lock(mutex_);
    ranks_->Abort();
  }
  // What AwaitEpoch answers from now on.
  void PrepareWith(const absl::Status& status) {
    const std::lock_guard lock(mutex_);
    preparation_ = status;
  }

  RankProgress progress() const override {
    const std::lock_guard lock(mutex_);
    return {steps_done_, 0, steps_done_ + static_cast<uint64_t>(epochs_), busy_};
  }
  int epochs() const {
    const std::lock_guard lock(mutex_);
    return epochs_;
  }

  // What a step of a replica of `world_size` ranks answers.
  static int32_t TokenOf(uint64_t step, int world_size) {
    return static_cast<int32_t>(step) * world_size + world_size * (world_size - 1) / 2;
  }

 private:
  void SetBusy(bool busy) {
    const std::lock_guard lock(mutex_);
    busy_ = busy;
  }
  void SetHeld(bool held) {
    {
      const std::lock_guard lock(mutex_);
      held_ = held;
    }
    changed_.notify_all();
  }

  const RunnerLimits limits_;
  std::shared_ptr<Collectives> ranks_;  // written with mutex_ held
  std::deque<StepPlan> plans_;
  absl::Status failure_ = absl::UnavailableError("no epoch");
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t steps_done_ = 0;
  int epochs_ = 0;
  bool busy_ = false;
  bool held_ = false;
  absl::Status preparation_;
};

}  // namespace caravan
