// Random schedules: whatever the engine does with its sequences, each answers what it answers
// alone, and no block is lost.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

#include "common/log.h"
#include "tests/worker/engine/engine_harness.h"

namespace caravan {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

class RandomSchedule {
 public:
  explicit RandomSchedule(uint64_t seed) : random_(seed) {
    limits_.block_tokens = Pick(1, 8);
    limits_.num_blocks = Pick(4, 40);
    limits_.max_slots = Pick(1, 10);
    limits_.max_batch_tokens = Pick(1, 64);
    limits_.max_context_tokens = Pick(16, 120);
    limits_.vocab_size = 40;
    limits_.max_steps_in_flight = Pick(1, 3);
    if (Chance(25)) limits_.max_shareable_prompt_tokens = Pick(4, 30);
    options_.max_batch_tokens = Pick(1, 64);
    options_.max_prefill_chunk_tokens = Pick(1, 40);
    options_.max_running_sequences = Pick(1, 10);
    options_.max_waiting_requests = Pick(2, 30);
    options_.enable_prefix_cache = Chance(80);
    options_.pipelined = Chance(75);
    options_.pipeline_depth = Pick(1, 3);
    if (Chance(25)) options_.step_time_target_ms = Pick(1, 20);
    failures_ = Chance(30);
    for (auto& stem : stems_) {
      stem.resize(Pick(1, 60));
      for (int32_t& token : stem) token = Pick(0, limits_.vocab_size - 1);
    }
    harness_ = std::make_unique<EngineHarness>(options_, limits_);
    harness_->runner().set_run_seconds(1e-3 * Pick(0, 5), 1e-4 * Pick(0, 10));
  }

  // One turn of a client and one of the engine.
  void Step() {
    if (Chance(25)) SubmitOne();
    if (Chance(3)) CancelOne();
    if (failures_ && Chance(1)) {
      harness_->runner().Fail(absl::UnavailableError("rank 1 is gone"), Pick(0, 3));
    }
    // A rank may also go unasked, between steps.
    if (failures_ && Pick(0, 999) < 3) harness_->runner().LoseIdle();
    if (Chance(10)) harness_->Advance(absl::Milliseconds(Pick(1, 500)));
    harness_->engine().StepOnce();
  }

  void Finish() {
    harness_->RunUntilIdle();
    harness_->ExpectEmpty();
    for (const auto& [key, request] : requests_) Judge(request);
  }

  uint64_t steps() { return harness_->engine().Stats().steps; }
  EngineStats Stats() { return harness_->engine().Stats(); }
  int64_t compared() const { return compared_; }
  int64_t searches() const { return searches_; }
  bool failed() const {
    return ::testing::Test::HasFailure() || !harness_->runner().errors().empty();
  }

 private:
  int32_t Pick(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  bool Chance(int32_t percent) { return Pick(0, 99) < percent; }

  Request RandomRequest() {
    Request request = MakeRequest(++last_key_, {}, Pick(1, 30));
    const std::vector<int32_t>& stem = stems_[Pick(0, 3)];
    request.prompt.assign(stem.begin(), stem.begin() + Pick(0, stem.size()));
    for (int32_t i = Pick(Chance(50) ? 0 : 1, 10); i > 0; --i) {
      request.prompt.push_back(Pick(0, limits_.vocab_size - 1));
    }
    if (request.prompt.empty()) request.prompt.push_back(0);
    if (Chance(20)) request.num_samples = Pick(2, 5);
    if (Chance(20)) MakeBeams(request);
    request.priority = Chance(30) ? Pick(-2, 2) : 0;
    if (Chance(10)) request.deadline = harness_->now() + absl::Milliseconds(Pick(0, 2000));
    request.cache_salt = Chance(20) ? Pick(1, 2) : 0;
    request.sampling.seed = request.cache_salt << 56 | static_cast<uint64_t>(Pick(0, 1 << 20));
    for (int32_t i = Chance(60) ? Pick(1, 4) : 0; i > 0; --i) {
      request.sampling.stop_token_ids.push_back(Pick(0, limits_.vocab_size - 1));
    }
    for (int32_t i = Chance(30) ? Pick(1, 3) : 0; i > 0; --i) {
      auto& word = request.sampling.stop_sequences.emplace_back();
      for (int32_t k = Pick(1, 2); k > 0; --k) word.push_back(Pick(0, limits_.vocab_size - 1));
    }
    if (Chance(20)) request.sampling.min_tokens = Pick(0, request.sampling.max_tokens);
    return request;
  }

  void MakeBeams(Request& request) {
    request.num_samples = 1;
    request.beams.width = Pick(2, 6);
    if (Chance(50)) request.beams.length_penalty = 0.25F * static_cast<float>(Pick(-4, 8));
    if (Chance(30)) request.beams.diversity_rate = 0.125F * static_cast<float>(Pick(-4, 8));
  }

  // The first half of a request that runs elsewhere: its client comes back with what it got.
  void Resume(Request& request) {
    const Output alone = harness_->Alone(request);
    request.num_resumed = Pick(0, static_cast<int32_t>(alone.tokens.size()) - 1);
    request.prompt.insert(request.prompt.end(), alone.tokens.begin(),
                          alone.tokens.begin() + request.num_resumed);
    request.num_samples = 1;
  }

  void SubmitOne() {
    Request request = RandomRequest();
    if (Chance(10) && request.beams.width == 1) Resume(request);
    const absl::Status status = harness_->Submit(request);
    const int32_t length = static_cast<int32_t>(request.prompt.size());
    const int32_t width = request.beams.width;
    const bool fits =
        length + 1 <= limits_.max_context_tokens &&
        length <= limits_.num_blocks * limits_.block_tokens &&
        (width == 1 || (length + 1 <= MaxBeamLength(limits_, length, width) &&
                        width <= std::min(limits_.max_slots, options_.max_running_sequences)));
    EXPECT_EQ(absl::IsInvalidArgument(status), !fits) << status;
    EXPECT_TRUE(!fits || status.ok() || absl::IsResourceExhausted(status)) << status;
    if (status.ok()) requests_.emplace(request.key, request);
  }

  void CancelOne() {
    const RequestKey key = Pick(0, static_cast<int32_t>(last_key_) + 1);
    harness_->engine().Cancel(key);
    cancelled_.insert(key);
  }

  // A search yields all of its beams, or nothing.
  void JudgeBeams(const Request& request) {
    const FinishReason finish = harness_->OutputOf(request.key).finish;
    if (finish == FinishReason::kStopToken || finish == FinishReason::kStopSequence ||
        finish == FinishReason::kLength) {
      harness_->ExpectBeamsAlone(request);
      ++searches_;
      return;
    }
    EXPECT_TRUE(finish == FinishReason::kCancelled  ? cancelled_.contains(request.key)
                : finish == FinishReason::kDeadline ? request.deadline <= harness_->now()
                                                    : finish == FinishReason::kError && failures_);
    for (int32_t i = 0; i < request.beams.width; ++i) {
      EXPECT_STREQ(NameOf(harness_->OutputOf(request.key, i).finish), NameOf(finish));
      EXPECT_TRUE(harness_->OutputOf(request.key, i).tokens.empty());
    }
  }

  void Judge(const Request& request) {
    if (request.beams.width > 1) return JudgeBeams(request);
    for (int32_t i = 0; i < request.num_samples; ++i) {
      const Output& output = harness_->OutputOf(request.key, i);
      const Output alone = harness_->Alone(request, i);
      const auto where = ::testing::Message() << "request " << request.key << " sample " << i;
      switch (output.finish) {
        case FinishReason::kStopToken:
        case FinishReason::kStopSequence:
        case FinishReason::kLength:
          EXPECT_EQ(output.tokens, alone.tokens) << where;
          EXPECT_STREQ(NameOf(output.finish), NameOf(alone.finish)) << where;
          ++compared_;
          continue;
        case FinishReason::kCancelled:
          EXPECT_TRUE(cancelled_.contains(request.key)) << where;
          break;
        case FinishReason::kDeadline:
          EXPECT_LE(request.deadline, harness_->now()) << where;
          EXPECT_TRUE(absl::IsDeadlineExceeded(output.status)) << where;
          break;
        case FinishReason::kError:
          EXPECT_TRUE(failures_ && absl::IsUnavailable(output.status)) << where;
          break;
        case FinishReason::kNone:
          ADD_FAILURE() << where << " never ended";
      }
      ASSERT_LE(output.tokens.size(), alone.tokens.size()) << where;
      EXPECT_TRUE(std::equal(output.tokens.begin(), output.tokens.end(), alone.tokens.begin()))
          << where;
    }
  }

  std::mt19937_64 random_;
  RunnerLimits limits_;
  EngineOptions options_;
  bool failures_ = false;
  std::vector<int32_t> stems_[4];
  std::unique_ptr<EngineHarness> harness_;
  std::map<RequestKey, Request> requests_;
  std::set<RequestKey> cancelled_;
  RequestKey last_key_ = 0;
  int64_t compared_ = 0;
  int64_t searches_ = 0;
};

TEST(EngineProperty, RandomSchedulesChangeNoOutputAndLeakNoBlock) {
  InitLog({.level = LogLevel::kError});  // hundreds of ranks are lost
  const uint64_t seed = FromEnvironment("CARAVAN_TEST_SEED", std::random_device()());
  const uint64_t wanted = FromEnvironment("CARAVAN_TEST_STEPS", 200000);
  std::printf("CARAVAN_TEST_SEED=%llu CARAVAN_TEST_STEPS=%llu\n",
              static_cast<unsigned long long>(seed), static_cast<unsigned long long>(wanted));
  EngineStats sum;
  int64_t compared = 0;
  int64_t searches = 0;
  int32_t schedules = 0;
  while (sum.steps < wanted) {
    const uint64_t schedule_seed = seed + schedules++;
    RandomSchedule schedule(schedule_seed);
    for (int32_t i = 0; i < 400 && !schedule.failed(); ++i) schedule.Step();
    schedule.Finish();
    const EngineStats stats = schedule.Stats();
    sum.steps += stats.steps;
    sum.preemptions += stats.preemptions;
    sum.cached_tokens += stats.cached_tokens;
    sum.cancelled += stats.cancelled;
    compared += schedule.compared();
    searches += schedule.searches();
    ASSERT_FALSE(schedule.failed())
        << "repeat with CARAVAN_TEST_SEED=" << schedule_seed << " CARAVAN_TEST_STEPS=1";
  }
  std::printf(
      "%d schedules, %llu steps, %lld outputs and %lld searches compared, %llu preemptions, %llu "
      "tokens from the cache, %llu cancelled\n",
      schedules, static_cast<unsigned long long>(sum.steps), static_cast<long long>(compared),
      static_cast<long long>(searches), static_cast<unsigned long long>(sum.preemptions),
      static_cast<unsigned long long>(sum.cached_tokens),
      static_cast<unsigned long long>(sum.cancelled));
  // Otherwise the schedules do not test what they are made for.
  if (sum.steps >= 100000) {
    EXPECT_GT(compared, 1000);
    EXPECT_GT(searches, 200);
    EXPECT_GT(sum.preemptions, 100u);
    EXPECT_GT(sum.cached_tokens, 1000u);
    EXPECT_GT(sum.cancelled, 100u);
  }
}

}  // namespace
}  // namespace caravan
