#include "tests/worker/model/runner/thread_ranks_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "common/status.h"
#include "worker/model/number_format.h"

namespace caravan {
namespace {

// What the ranks of one group share: a rendezvous at which each leaves a pointer.
class Meeting {
 public:
  explicit Meeting(int world_size) : pointers_(static_cast<size_t>(world_size)) {}

  // Leaves `pointer`, waits for all ranks; false after Abort. Pointers stay good until Depart.
  bool Arrive(int rank, void* pointer) {
    {
      const std::lock_guard lock(mutex_);
      pointers_[static_cast<size_t>(rank)] = pointer;
    }
    return Depart();
  }
  // Waits for all ranks.
  bool Depart() {
    std::unique_lock lock(mutex_);
    const uint64_t round = round_;
    if (++arrived_ == pointers_.size()) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return aborted_ || round_ != round; });
    return !aborted_;
  }
  void Abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }
  size_t size() const { return pointers_.size(); }
  void* pointer(size_t rank) const { return pointers_[rank]; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<void*> pointers_;
  size_t arrived_ = 0;
  uint64_t round_ = 0;
  bool aborted_ = false;
};

// `value` without the bits that `kept` lacks.
float Masked(float value, uint32_t kept) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & kept);
}

class ThreadRank final : public Collectives {
 public:
  ThreadRank(std::shared_ptr<Meeting> meeting, int rank, SumOrder order)
      : meeting_(std::move(meeting)), rank_(rank), order_(order) {}

  int rank() const override { return rank_; }
  int world_size() const override { return static_cast<int>(meeting_->size()); }

  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override {
    if (meeting_->size() == 1) return absl::OkStatus();  // nothing that a graph can't hold
    const int64_t count = x.rows * x.cols;
    mine_.resize(static_cast<size_t>(count));
    const std::vector<std::byte> before = Download(x, stream);
    ConvertElements(before.data(), x.dtype, mine_.data(), DType::kFloat32, count);
    if (!meeting_->Arrive(rank_, mine_.data())) return Lost();
    std::vector<float> sum(mine_.size(), 0.0F);
    // A mask and no branch: g++ 12 at -O2 drops the truncation from under an `if`.
    const bool coarse = order_ == SumOrder::kByRowCount && x.rows == 1;
    const uint32_t kept = coarse ? 0xffff0000U : 0xffffffffU;
    for (size_t rank = 0; rank < meeting_->size(); ++rank) {
      const auto* addend = static_cast<const float*>(meeting_->pointer(rank));
      for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] = Masked(sum[i] + addend[i], kept);
      }
    }
    if (!meeting_->Depart()) return Lost();
    std::vector<std::byte> after(before.size());
    ConvertElements(sum.data(), DType::kFloat32, after.data(), x.dtype, count);
    CopyFromHost(x.data, after.data(), static_cast<int64_t>(after.size()), stream);
    return absl::OkStatus();
  }

  bool gathers_on_all_ranks() const override { return true; }
  absl::Status GatherColumns(ConstMatrixView shard, MatrixView full, DeviceStream stream) override {
    std::vector<std::byte> mine = Download(shard, stream);
    if (!meeting_->Arrive(rank_, mine.data())) return Lost();
    std::vector<std::byte> all(mine.size() * meeting_->size());
    const auto row_bytes = static_cast<size_t>(shard.cols * SizeOf(shard.dtype));
    for (size_t rank = 0; rank < meeting_->size(); ++rank) {
      const auto* from = static_cast<const std::byte*>(meeting_->pointer(rank));
      for (size_t r = 0; r < static_cast<size_t>(shard.rows); ++r) {
        std::memcpy(&all[(r * meeting_->size() + rank) * row_bytes], from + r * row_bytes,
                    row_bytes);
      }
    }
    if (!full.empty()) {
      CopyFromHost(full.data, all.data(), static_cast<int64_t>(all.size()), stream);
    }
    return meeting_->Depart() ? absl::OkStatus() : Lost();
  }

  absl::Status Broadcast(void* data, size_t bytes, int root) override {
    if (!meeting_->Arrive(rank_, data)) return Lost();
    if (rank_ != root) std::memcpy(data, meeting_->pointer(static_cast<size_t>(root)), bytes);
    return meeting_->Depart() ? absl::OkStatus() : Lost();
  }

  void Abort() override { meeting_->Abort(); }

 private:
  static std::vector<std::byte> Download(ConstMatrixView x, DeviceStream stream) {
    CARAVAN_CHECK(x.row_stride == x.cols);
    std::vector<std::byte> bytes(static_cast<size_t>(x.rows * x.cols * SizeOf(x.dtype)));
    if (stream.device() == Device::kCpu) {
      std::memcpy(bytes.data(), x.data, bytes.size());
    } else {
      CopyToHost(bytes.data(), x.data, static_cast<int64_t>(bytes.size()), stream.cuda());
      stream.cuda().Synchronize();
    }
    return bytes;
  }
  static absl::Status Lost() { return absl::UnavailableError("the group was aborted"); }

  std::shared_ptr<Meeting> meeting_;
  int rank_;
  SumOrder order_;
  std::vector<float> mine_;
};

}  // namespace

std::vector<std::shared_ptr<Collectives>> MakeThreadRanks(int world_size, SumOrder order) {
  auto meeting = std::make_shared<Meeting>(world_size);
  std::vector<std::shared_ptr<Collectives>> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    ranks.push_back(std::make_shared<ThreadRank>(meeting, rank, order));
  }
  return ranks;
}

std::unique_ptr<ThreadReplica> ThreadReplica::Make(LoadOptions load,
                                                   const LlamaRunnerOptions& options,
                                                   int world_size, SumOrder order,
                                                   const ModelTarget& target) {
  auto replica = std::make_unique<ThreadReplica>();
  const auto ranks = MakeThreadRanks(world_size, order);
  for (int rank = 0; rank < world_size; ++rank) {
    load.shard = {rank, world_size};
    replica->streams_.push_back(OpenStream(target));
    load.stream = StreamOf(replica->streams_.back());
    auto model = LoadLlama(load);
    CARAVAN_CHECK(model.ok(), std::string(model.status().message()));
    auto runner = LlamaRunner::Create(*std::move(model), ranks[static_cast<size_t>(rank)],
                                      With(options, target));
    CARAVAN_CHECK(runner.ok(), std::string(runner.status().message()));
    replica->ranks_.push_back(*std::move(runner));
  }
  return replica;
}

ThreadReplica::~ThreadReplica() = default;

absl::Status ThreadReplica::Submit(const StepPlan& plan) {
  for (auto& rank : ranks_) RETURN_IF_ERROR(rank->Submit(plan));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> ThreadReplica::Collect() {
  ASSIGN_OR_RETURN(StepResult first, ranks_[0]->Collect());
  for (size_t rank = 1; rank < ranks_.size(); ++rank) {
    ASSIGN_OR_RETURN(const StepResult other, ranks_[rank]->Collect());
    EXPECT_EQ(other.step, first.step);
    EXPECT_EQ(other.slots.size(), first.slots.size());
    for (size_t i = 0; i < std::min(other.slots.size(), first.slots.size()); ++i) {
      EXPECT_EQ(other.slots[i].tokens[0].token_id, first.slots[i].tokens[0].token_id);
    }
  }
  return first;
}

absl::Status ThreadReplica::Recover(absl::Duration) {
  const auto ranks = MakeThreadRanks(static_cast<int>(ranks_.size()));
  for (auto& rank : ranks_) rank->Abort();
  for (size_t i = 0; i < ranks_.size(); ++i) ranks_[i]->Reset(ranks[i]);
  return absl::OkStatus();
}

std::vector<EmittedToken> GenerateAlone(ModelRunner& runner, const Request& request,
                                        int32_t sample_index) {
  const RunnerLimits& limits = runner.limits();
  const auto blocks_for = [&](int32_t tokens) {
    return (tokens + limits.block_tokens - 1) / limits.block_tokens;
  };
  std::vector<EmittedToken> output;
  int32_t blocks = 0;
  int32_t position = 0;
  auto known = static_cast<int32_t>(request.prompt.size());
  const int32_t left = request.sampling.max_tokens - request.num_resumed;
  for (int32_t n = 0; n < left && known < limits.max_context_tokens; ++n) {
    StepPlan plan;
    plan.step = static_cast<uint64_t>(n) + 1;
    if (n == 0) {
      plan.setups.push_back({0, request.prompt, known - request.num_resumed, request.sampling,
                             static_cast<uint32_t>(sample_index)});
    }
    SlotWork work;
    work.slot = 0;
    work.start_position = position;
    work.num_tokens = known - position;
    work.sample = true;
    NewBlocks more;
    while (blocks < blocks_for(known)) more.blocks.push_back(blocks++);
    work.new_blocks.push_back(more);
    plan.work.push_back(work);
    EXPECT_TRUE(runner.Submit(plan).ok());
    const absl::StatusOr<StepResult> result = runner.Collect();
    CARAVAN_CHECK(result.ok(), std::string(result.status().message()));
    output.push_back(result->slots[0].tokens[0]);
    const std::vector<int32_t>& stops = request.sampling.stop_token_ids;
    if (std::count(stops.begin(), stops.end(), output.back().token_id) > 0) break;
    position = known++;
  }
  StepPlan release;
  release.released_slots.push_back(0);
  EXPECT_TRUE(runner.Submit(release).ok());
  EXPECT_TRUE(runner.Collect().ok());
  return output;
}

}  // namespace caravan
