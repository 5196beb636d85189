#include "worker/model/runner/llama_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kernels/cpu_backend.h"
#include "tests/worker/model/model_folder_fixture.h"
#include "tests/worker/model/runner/thread_ranks_fixture.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::HasSubstr;
using testing::Not;

class LlamaRunnerTest : public testing::Test {
 protected:
  LlamaRunnerTest() {
    SetCpuThreads(1);
    const nlohmann::json config = TinyConfig();
    folder_.Write("config.json", config.dump());
    folder_.Write("model.safetensors", SafetensorsBytes(RandomTensors(config)));
  }

  LoadOptions Load(Shard shard = {}) const {
    LoadOptions options;
    options.model_folder = folder_.path();
    options.shard = shard;
    options.max_batch_tokens = 64;
    options.max_logit_rows = 8;
    return options;
  }
  static LlamaRunnerOptions Options() {
    LlamaRunnerOptions options;
    options.block_tokens = 4;
    options.num_blocks = 32;
    options.max_slots = 8;
    return options;
  }
  std::unique_ptr<LlamaRunner> MakeRunner() {
    return *LlamaRunner::Create(*LoadLlama(Load()), std::make_shared<SingleRankCollectives>(),
                                Options());
  }
  // A plan that runs `tokens` of a new sequence in `slot` from block `block` on, and draws.
  static StepPlan Begin(int32_t slot, std::vector<int32_t> tokens, int32_t block,
                        SamplingParams sampling = Greedy()) {
    StepPlan plan;
    plan.step = 1;
    const auto count = static_cast<int32_t>(tokens.size());
    plan.setups.push_back({slot, std::move(tokens), count, std::move(sampling), 0});
    plan.work.push_back(Work(slot, 0, count));
    NewBlocks more;
    for (int32_t b = 0; b < 4; ++b) more.blocks.push_back(block + b);
    plan.work[0].new_blocks.push_back(more);
    return plan;
  }
  static StepPlan Next(uint64_t step, int32_t slot, int32_t position) {
    StepPlan plan;
    plan.step = step;
    plan.work.push_back(Work(slot, position, 1));
    return plan;
  }
  static SlotWork Work(int32_t slot, int32_t start, int32_t count) {
    SlotWork work;
    work.slot = slot;
    work.start_position = start;
    work.num_tokens = count;
    work.sample = true;
    return work;
  }
  static SamplingParams Greedy() {
    SamplingParams sampling;
    sampling.temperature = 0;
    return sampling;
  }
  static int32_t Token(const absl::StatusOr<StepResult>& result) {
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->slots.at(0).tokens.at(0).token_id : -1;
  }
  // The ids that a request gives alone.
  std::vector<int32_t> Generate(const SamplingParams& sampling, const std::vector<int32_t>& prompt,
                                int32_t num_resumed = 0) {
    const auto runner = MakeRunner();
    Request request;
    request.prompt = prompt;
    request.num_resumed = num_resumed;
    request.sampling = sampling;
    std::vector<int32_t> ids;
    for (const EmittedToken& token : GenerateAlone(*runner, request)) {
      ids.push_back(token.token_id);
    }
    return ids;
  }

  TempFolder folder_;
};

TEST_F(LlamaRunnerTest, FeedsADrawnTokenToAStepThatWasSubmittedBefore) {
  const auto runner = MakeRunner();
  EXPECT_EQ(runner->limits().max_steps_in_flight, 2);
  ASSERT_TRUE(runner->Submit(Begin(3, {1, 2, 3}, 0)).ok());
  ASSERT_TRUE(runner->Submit(Next(2, 3, 3)).ok());
  const int32_t first = Token(runner->Collect());
  const int32_t second = Token(runner->Collect());
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3, first}, 8)).ok());
  EXPECT_EQ(Token(runner->Collect()), second);
}

TEST_F(LlamaRunnerTest, ReportsProgressAndTime) {
  const auto runner = MakeRunner();
  EXPECT_EQ(runner->progress().step, 0U);
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  const auto result = runner->Collect();
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->step, 1U);
  EXPECT_GT(result->run_seconds, 0);
  const StepProgress progress = runner->progress();
  EXPECT_EQ(progress.steps_done, 1U);
  EXPECT_EQ(progress.step, 1U);
  EXPECT_EQ(progress.layers_done, 2);
  EXPECT_FALSE(progress.busy);
}

TEST_F(LlamaRunnerTest, ReadsABlockThatWasCopiedBeforeItWasWritten) {
  const auto runner = MakeRunner();
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3, 4, 5, 6}, 0)).ok());
  const int32_t right = Token(runner->Collect());
  // Slot 1 takes block 0 as it is and a copy of block 1, then recomputes the last token only.
  StepPlan plan;
  plan.step = 2;
  plan.setups.push_back({1, {1, 2, 3, 4, 5, 6}, 6, Greedy(), 0});
  plan.copies.push_back({0, 1, 20});
  plan.work.push_back(Work(1, 5, 1));
  plan.work[0].new_blocks.push_back({0, {0, 20}});
  ASSERT_TRUE(runner->Submit(plan).ok());
  EXPECT_EQ(Token(runner->Collect()), right);
}

TEST_F(LlamaRunnerTest, RunsAStepThatOnlyReleases) {
  const auto runner = MakeRunner();
  ASSERT_TRUE(runner->Submit(Begin(0, {1}, 0)).ok());
  ASSERT_TRUE(runner->Collect().ok());
  StepPlan plan;
  plan.step = 2;
  plan.released_slots.push_back(0);
  ASSERT_TRUE(runner->Submit(plan).ok());
  const auto result = runner->Collect();
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->step, 2U);
  EXPECT_TRUE(result->slots.empty());
}

TEST_F(LlamaRunnerTest, DrawsNothingInTheMiddleOfAPrompt) {
  const auto runner = MakeRunner();
  StepPlan plan = Begin(0, {1, 2, 3}, 0);
  plan.work[0].num_tokens = 2;
  plan.work[0].sample = false;
  ASSERT_TRUE(runner->Submit(plan).ok());
  EXPECT_TRUE(runner->Collect()->slots.empty());
}

TEST_F(LlamaRunnerTest, RefusesPlansThatCannotBe) {
  const auto error = [this](const auto& change) {
    const auto runner = MakeRunner();
    StepPlan plan = Begin(0, {1, 2, 3}, 0);
    change(plan);
    EXPECT_TRUE(runner->Submit(plan).ok());
    const absl::Status status = runner->Collect().status();
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_FALSE(runner->Submit(plan).ok()) << "no step is taken after an error";
    EXPECT_FALSE(runner->Recover(absl::ZeroDuration()).ok()) << "and this one is fatal";
    return std::string(status.message());
  };
  EXPECT_THAT(error([](StepPlan& p) { p.work[0].slot = 8; }), HasSubstr("slot 8 of 8"));
  EXPECT_THAT(error([](StepPlan& p) { p.released_slots = {-1}; }), HasSubstr("slot -1"));
  EXPECT_THAT(error([](StepPlan& p) { p.setups[0].slot = 99; }), HasSubstr("slot 99"));
  EXPECT_THAT(error([](StepPlan& p) { p.work[0].slot = 1; }), HasSubstr("has no sequence"));
  EXPECT_THAT(error([](StepPlan& p) {
                p.copies.push_back({0, 1, 32});
              }),
              HasSubstr("block 1 to 32"));
  EXPECT_THAT(error([](StepPlan& p) {
                p.setups[0].tokens.assign(65, 1);
                p.work[0].num_tokens = 65;
                p.work[0].new_blocks[0].blocks.assign(20, 1);
              }),
              HasSubstr("65 tokens, at most 64"));
  EXPECT_THAT(error([](StepPlan& p) {
                p.setups[0].tokens.assign(300, 1);
                p.work[0].start_position = 250;
                p.work[0].num_tokens = 7;
                p.work[0].new_blocks[0].blocks.assign(80, 1);
              }),
              HasSubstr("exceeds 256 positions"));
}

TEST_F(LlamaRunnerTest, FailsItsStepsWhenTheGroupIsAbortedAndGoesOnAfterReset) {
  const auto groups = MakeThreadRanks(2);
  auto runner = *LlamaRunner::Create(*LoadLlama(Load({0, 2})), groups[0], Options());
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3}, 0)).ok());  // waits for rank 1, which never comes
  ASSERT_TRUE(runner->Submit(Next(2, 0, 3)).ok());
  runner->Abort();
  EXPECT_TRUE(absl::IsUnavailable(runner->Collect().status()));
  EXPECT_TRUE(absl::IsUnavailable(runner->Collect().status()));
  EXPECT_TRUE(absl::IsUnavailable(runner->Submit(Next(3, 0, 4))));
  EXPECT_TRUE(absl::IsFailedPrecondition(runner->Recover(absl::ZeroDuration())));

  const auto next = MakeThreadRanks(2);
  auto other = *LlamaRunner::Create(*LoadLlama(Load({1, 2})), next[1], Options());
  runner->Reset(next[0]);
  EXPECT_TRUE(runner->Recover(absl::ZeroDuration()).ok()) << "nothing is lost now";
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  ASSERT_TRUE(other->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  EXPECT_EQ(Token(runner->Collect()), Token(other->Collect()));
  ASSERT_TRUE(runner->Submit(Next(2, 1, 0)).ok());
  EXPECT_THAT(std::string(runner->Collect().status().message()), HasSubstr("has no sequence"));
}

TEST_F(LlamaRunnerTest, ResetEndsAStepThatIsStuck) {
  auto runner = *LlamaRunner::Create(*LoadLlama(Load({0, 2})), MakeThreadRanks(2)[0], Options());
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  runner->Reset(MakeThreadRanks(2)[0]);  // returns, though rank 1 of the first group never came
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  // And so does the destructor, with a step in progress.
}

TEST_F(LlamaRunnerTest, BansBadWordsOfSeveralTokens) {
  SamplingParams sampling = Greedy();
  sampling.max_tokens = 12;
  const std::vector<int32_t> free = Generate(sampling, {5, 9, 11});
  ASSERT_EQ(free.size(), 12U);
  sampling.bad_words = {{free[0], free[1]}};
  const std::vector<int32_t> banned = Generate(sampling, {5, 9, 11});
  EXPECT_EQ(banned[0], free[0]);
  EXPECT_NE(banned[1], free[1]);
  for (size_t i = 1; i < banned.size(); ++i) {
    EXPECT_FALSE(banned[i - 1] == free[0] && banned[i] == free[1]) << i;
  }
  sampling.bad_words = {{free[0]}};
  EXPECT_THAT(Generate(sampling, {5, 9, 11}), Not(Contains(free[0])));
}

TEST_F(LlamaRunnerTest, HoldsStopTokensBackBelowMinTokens) {
  SamplingParams sampling = Greedy();
  sampling.max_tokens = 12;
  const std::vector<int32_t> free = Generate(sampling, {5, 9, 11});
  sampling.stop_token_ids = {free[0]};
  EXPECT_EQ(Generate(sampling, {5, 9, 11}), std::vector<int32_t>{free[0]});
  sampling.min_tokens = 5;
  const std::vector<int32_t> held = Generate(sampling, {5, 9, 11});
  ASSERT_GE(held.size(), 6U);
  EXPECT_THAT(std::vector<int32_t>(held.begin(), held.begin() + 5), Each(Not(free[0])));
}

TEST_F(LlamaRunnerTest, AppliesLogitBiasAndPenalties) {
  SamplingParams sampling = Greedy();
  sampling.max_tokens = 10;
  sampling.logit_bias = {{42, 1000}};
  EXPECT_THAT(Generate(sampling, {5, 9, 11}), Each(42));
  sampling.frequency_penalty = 400;  // 42 stays ahead of the others twice
  const std::vector<int32_t> penalized = Generate(sampling, {5, 9, 11});
  EXPECT_EQ(std::count(penalized.begin(), penalized.end(), 42), 3);
  sampling.frequency_penalty = 0;
  sampling.presence_penalty = 2000;
  const std::vector<int32_t> once = Generate(sampling, {5, 9, 11});
  EXPECT_EQ(std::count(once.begin(), once.end(), 42), 1);
  const std::vector<int32_t> in_prompt = Generate(sampling, {5, 9, 42});
  EXPECT_EQ(in_prompt[0], 42) << "the prompt is no output";
}

TEST_F(LlamaRunnerTest, GoesOnWhereAnEarlierAttemptEnded) {
  SamplingParams sampling;
  sampling.temperature = 1.2F;
  sampling.seed = 77;
  sampling.max_tokens = 12;
  sampling.min_tokens = 8;
  sampling.presence_penalty = 0.5F;
  sampling.frequency_penalty = 0.3F;
  sampling.repetition_penalty = 1.2F;
  const std::vector<int32_t> prompt = {5, 9, 11};
  sampling.stop_token_ids = {3};
  const std::vector<int32_t> whole = Generate(sampling, prompt);
  for (const size_t emitted : {1, 4, 7}) {
    std::vector<int32_t> resumed = prompt;
    resumed.insert(resumed.end(), whole.begin(), whole.begin() + static_cast<ptrdiff_t>(emitted));
    const std::vector<int32_t> rest = Generate(sampling, resumed, static_cast<int32_t>(emitted));
    EXPECT_EQ(rest,
              std::vector<int32_t>(whole.begin() + static_cast<ptrdiff_t>(emitted), whole.end()));
  }
}

// A group that fell before it was used.
class FallenGroup final : public Collectives {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  absl::Status status() const override { return absl::UnavailableError("rank 1 was lost"); }
  absl::Status AllReduceSum(MatrixView, DeviceStream) override { return status(); }
  absl::Status GatherColumns(ConstMatrixView, MatrixView, DeviceStream) override {
    return status();
  }
  absl::Status Broadcast(void*, size_t, int) override { return status(); }
  void Abort() override {}
};

TEST_F(LlamaRunnerTest, AnEpochThatFallsWhileItIsPreparedIsFollowedByTheNext) {
  LlamaRunnerOptions options = Options();
  options.slots_on_device = true;  // prepares by running steps, in which the ranks meet
  const auto runner =
      *LlamaRunner::Create(*LoadLlama(Load()), std::make_shared<FallenGroup>(), options);
  const absl::Status fallen = runner->AwaitEpoch(absl::Seconds(20));
  EXPECT_TRUE(absl::IsUnavailable(fallen)) << fallen;
  EXPECT_TRUE(absl::IsUnavailable(runner->Submit(Begin(0, {1, 2, 3}, 0))));
  runner->Reset(std::make_shared<SingleRankCollectives>());
  ASSERT_TRUE(runner->AwaitEpoch(absl::Seconds(20)).ok());
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  const int32_t token = Token(runner->Collect());
  const auto other = MakeRunner();
  ASSERT_TRUE(other->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  EXPECT_EQ(Token(other->Collect()), token);
}

// A group that stands until it is told to fall.
class FallingGroup final : public SingleRankCollectives {
 public:
  absl::Status status() const override {
    return fallen_ ? absl::UnavailableError("rank 1 was lost") : absl::OkStatus();
  }
  void Fall() { fallen_ = true; }

 private:
  std::atomic<bool> fallen_ = false;
};

// Steps behind the one that failed were counted as running for ever, which looks like a wedge.
TEST_F(LlamaRunnerTest, IsNotBusyOnceItsGroupHasFallen) {
  LlamaRunnerOptions options = Options();
  options.slots_on_device = true;
  const auto group = std::make_shared<FallingGroup>();
  const auto runner = *LlamaRunner::Create(*LoadLlama(Load()), group, options);
  ASSERT_TRUE(runner->Submit(Begin(0, {1, 2, 3}, 0)).ok());
  ASSERT_TRUE(runner->Submit(Next(2, 0, 3)).ok());
  EXPECT_TRUE(runner->progress().busy);
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (runner->progress().step < 2 && absl::Now() < deadline) std::this_thread::yield();
  group->Fall();
  EXPECT_TRUE(absl::IsUnavailable(runner->Collect().status()));
  while (runner->progress().busy && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_FALSE(runner->progress().busy);
}

TEST_F(LlamaRunnerTest, NamesTheFlagThatIsWrong) {
  const auto error = [this](const auto& change) {
    LlamaRunnerOptions options = Options();
    change(options);
    const auto runner =
        LlamaRunner::Create(*LoadLlama(Load()), std::make_shared<SingleRankCollectives>(), options);
    return std::string(runner.status().message());
  };
  EXPECT_THAT(error([](LlamaRunnerOptions& o) { o.max_slots = 9; }),
              HasSubstr("--max_running_sequences is 9, must be in [1, 8]"));
  EXPECT_THAT(error([](LlamaRunnerOptions& o) { o.max_steps_in_flight = 0; }),
              HasSubstr("--pipeline_depth"));
  EXPECT_THAT(error([](LlamaRunnerOptions& o) { o.block_tokens = 0; }),
              HasSubstr("--block_tokens is 0"));
  EXPECT_THAT(error([](LlamaRunnerOptions& o) {
                o.num_blocks = 0;
                o.kv_cache_bytes = 100;
              }),
              AllOf(HasSubstr("--kv_cache_bytes is 100"), HasSubstr("4096 bytes")));
  EXPECT_THAT(error([](LlamaRunnerOptions& o) {
                o.num_blocks = 0;
                o.kv_cache_bytes = int64_t{1} << 50;
              }),
              AllOf(HasSubstr("the KV blocks need"), HasSubstr("lower --kv_cache_bytes")));
}

TEST_F(LlamaRunnerTest, CountsBlocksFromBytes) {
  LlamaRunnerOptions options = Options();
  options.num_blocks = 0;
  // Keys and values of 2 layers, 2 KV heads of 32, 4 tokens of 4 bytes: 4096 bytes a block.
  options.kv_cache_bytes = 10 * 4096 + 4095;
  const auto runner =
      LlamaRunner::Create(*LoadLlama(Load()), std::make_shared<SingleRankCollectives>(), options);
  ASSERT_TRUE(runner.ok()) << runner.status();
  EXPECT_EQ((*runner)->limits().num_blocks, 10);
  EXPECT_EQ((*runner)->limits().vocab_size, 70);
  EXPECT_EQ((*runner)->limits().max_context_tokens, 256);
}

}  // namespace
}  // namespace caravan
