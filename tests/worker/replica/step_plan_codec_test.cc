#include "worker/replica/step_plan_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

namespace caravan {
namespace {

using ::testing::HasSubstr;

RunnerLimits Limits() {
  RunnerLimits limits;
  limits.block_tokens = 16;
  limits.num_blocks = 1000;
  limits.max_slots = 64;
  limits.max_batch_tokens = 4096;
  limits.max_context_tokens = 2048;
  limits.vocab_size = 32000;
  return limits;
}

class RandomPlans {
 public:
  explicit RandomPlans(uint64_t seed) : random_(seed) {}

  StepPlan Next() {
    StepPlan plan;
    plan.step = random_();
    plan.released_slots = Numbers(Below(5), kLimits.max_slots);
    for (int i = Below(4); i > 0; --i) plan.setups.push_back(Setup());
    for (int i = Below(3); i > 0; --i) {
      plan.copies.push_back({0, Below(kLimits.num_blocks), Below(kLimits.num_blocks)});
    }
    for (int i = Below(20); i > 0; --i) plan.work.push_back(Work());
    return plan;
  }

 private:
  static const inline RunnerLimits kLimits = Limits();

  int32_t Below(int32_t end) {
    return static_cast<int32_t>(random_() % static_cast<uint64_t>(end));
  }
  float Real() { return std::uniform_real_distribution<float>(-100, 100)(random_); }
  std::vector<int32_t> Numbers(int count, int32_t end) {
    std::vector<int32_t> numbers(static_cast<size_t>(count));
    for (int32_t& number : numbers) number = Below(end);
    return numbers;
  }

  SlotSetup Setup() {
    SlotSetup setup;
    setup.slot = Below(kLimits.max_slots);
    setup.tokens = Numbers(1 + Below(100), kLimits.vocab_size);
    setup.prompt_tokens = Below(static_cast<int32_t>(setup.tokens.size()) + 1);
    setup.sample_index = static_cast<uint32_t>(Below(16));
    SamplingParams& sampling = setup.sampling;
    sampling.temperature = Real();
    sampling.top_k = Below(kLimits.vocab_size);
    sampling.top_p = Real();
    sampling.min_p = Real();
    sampling.repetition_penalty = Real();
    sampling.presence_penalty = Real();
    sampling.frequency_penalty = Real();
    for (int32_t id = Below(100); id < 400; id += 1 + Below(100)) {
      sampling.logit_bias.push_back({id, Real()});
    }
    for (int i = Below(3); i > 0; --i) {
      sampling.bad_words.push_back(Numbers(1 + Below(4), kLimits.vocab_size));
    }
    sampling.stop_token_ids = Numbers(Below(3), kLimits.vocab_size);
    sampling.min_tokens = Below(10);
    sampling.max_tokens = 1 + Below(1000);
    sampling.num_logprobs = Below(22) - 1;
    sampling.processed_logprobs = Below(2) == 1;
    sampling.seed = random_();
    sampling.top_p_decay = 0.5F;
    sampling.top_p_min = 0.25F;
    sampling.top_p_reset_id = Below(kLimits.vocab_size) - 1;
    sampling.penalize_prompt = Below(2) == 1;
    for (int i = Below(3); i > 0; --i) {
      sampling.stop_sequences.push_back(Numbers(1 + Below(4), kLimits.vocab_size));
    }
    return setup;
  }

  SlotWork Work() {
    SlotWork work;
    work.slot = Below(kLimits.max_slots);
    work.start_position = Below(1000);
    work.num_tokens = 1 + Below(200);
    work.sample = Below(2) == 1;
    if (Below(2) == 1) work.token_ids = Numbers(Below(work.num_tokens + 1), kLimits.vocab_size);
    if (Below(2) == 1) work.new_blocks.push_back({0, Numbers(Below(9), kLimits.num_blocks)});
    if (Below(4) == 1) work.replaced_blocks.push_back({0, Below(128), Below(kLimits.num_blocks)});
    return work;
  }

  std::mt19937_64 random_;
};

void ExpectEqual(const SamplingParams& a, const SamplingParams& b) {
  EXPECT_EQ(a.temperature, b.temperature);
  EXPECT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(a.top_p, b.top_p);
  EXPECT_EQ(a.min_p, b.min_p);
  EXPECT_EQ(a.repetition_penalty, b.repetition_penalty);
  EXPECT_EQ(a.presence_penalty, b.presence_penalty);
  EXPECT_EQ(a.frequency_penalty, b.frequency_penalty);
  ASSERT_EQ(a.logit_bias.size(), b.logit_bias.size());
  for (size_t i = 0; i < a.logit_bias.size(); ++i) {
    EXPECT_EQ(a.logit_bias[i].token_id, b.logit_bias[i].token_id);
    EXPECT_EQ(a.logit_bias[i].bias, b.logit_bias[i].bias);
  }
  EXPECT_EQ(a.bad_words, b.bad_words);
  EXPECT_EQ(a.stop_token_ids, b.stop_token_ids);
  EXPECT_EQ(a.min_tokens, b.min_tokens);
  EXPECT_EQ(a.max_tokens, b.max_tokens);
  EXPECT_EQ(a.num_logprobs, b.num_logprobs);
  EXPECT_EQ(a.processed_logprobs, b.processed_logprobs);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.top_p_decay, b.top_p_decay);
  EXPECT_EQ(a.top_p_min, b.top_p_min);
  EXPECT_EQ(a.top_p_reset_id, b.top_p_reset_id);
  EXPECT_EQ(a.penalize_prompt, b.penalize_prompt);
  EXPECT_EQ(a.stop_sequences, b.stop_sequences);
}

void ExpectEqual(const SlotWork& a, const SlotWork& b) {
  EXPECT_EQ(a.slot, b.slot);
  EXPECT_EQ(a.start_position, b.start_position);
  EXPECT_EQ(a.num_tokens, b.num_tokens);
  EXPECT_EQ(a.sample, b.sample);
  EXPECT_EQ(a.token_ids, b.token_ids);
  ASSERT_EQ(a.new_blocks.size(), b.new_blocks.size());
  for (size_t i = 0; i < a.new_blocks.size(); ++i) {
    EXPECT_EQ(a.new_blocks[i].kv_group, b.new_blocks[i].kv_group);
    EXPECT_EQ(a.new_blocks[i].blocks, b.new_blocks[i].blocks);
  }
  ASSERT_EQ(a.replaced_blocks.size(), b.replaced_blocks.size());
  for (size_t i = 0; i < a.replaced_blocks.size(); ++i) {
    EXPECT_EQ(a.replaced_blocks[i].kv_group, b.replaced_blocks[i].kv_group);
    EXPECT_EQ(a.replaced_blocks[i].index, b.replaced_blocks[i].index);
    EXPECT_EQ(a.replaced_blocks[i].block, b.replaced_blocks[i].block);
  }
}

void ExpectEqual(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.released_slots, b.released_slots);
  ASSERT_EQ(a.setups.size(), b.setups.size());
  for (size_t i = 0; i < a.setups.size(); ++i) {
    EXPECT_EQ(a.setups[i].slot, b.setups[i].slot);
    EXPECT_EQ(a.setups[i].tokens, b.setups[i].tokens);
    EXPECT_EQ(a.setups[i].prompt_tokens, b.setups[i].prompt_tokens);
    EXPECT_EQ(a.setups[i].sample_index, b.setups[i].sample_index);
    ExpectEqual(a.setups[i].sampling, b.setups[i].sampling);
  }
  ASSERT_EQ(a.copies.size(), b.copies.size());
  for (size_t i = 0; i < a.copies.size(); ++i) {
    EXPECT_EQ(a.copies[i].kv_group, b.copies[i].kv_group);
    EXPECT_EQ(a.copies[i].from, b.copies[i].from);
    EXPECT_EQ(a.copies[i].to, b.copies[i].to);
  }
  ASSERT_EQ(a.work.size(), b.work.size());
  for (size_t i = 0; i < a.work.size(); ++i) ExpectEqual(a.work[i], b.work[i]);
}

TEST(StepPlanCodec, RandomPlansSurviveTheWireUnchanged) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  RandomPlans plans(seed);
  for (int i = 0; i < 2000 && !::testing::Test::HasFailure(); ++i) {
    const StepPlan plan = plans.Next();
    v1::ReplicaStep message;
    EncodeStepPlan(plan, &message);
    v1::ReplicaStep received;
    ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
    const absl::StatusOr<StepPlan> decoded = DecodeStepPlan(received, Limits());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ExpectEqual(plan, *decoded);
  }
}

v1::ReplicaStep ValidStep() {
  v1::ReplicaStep step;
  step.set_step(1);
  step.add_released_slots(3);
  v1::ReplicaSlotSetup* setup = step.add_setups();
  setup->set_slot(3);
  setup->add_tokens(5);
  setup->set_prompt_tokens(1);
  v1::ReplicaBlockCopy* copy = step.add_copies();
  copy->set_from(1);
  copy->set_to(2);
  v1::ReplicaSlotWork* work = step.add_work();
  work->set_slot(3);
  work->set_num_tokens(1);
  work->add_new_blocks()->add_blocks(7);
  work->add_replaced_blocks()->set_block(7);
  return step;
}

TEST(StepPlanCodec, EachNumberOutsideTheLimitsIsNamed) {
  ASSERT_TRUE(DecodeStepPlan(ValidStep(), Limits()).ok());
  const auto expect_refused = [](const char* field, auto change) {
    v1::ReplicaStep step = ValidStep();
    change(step);
    const absl::StatusOr<StepPlan> plan = DecodeStepPlan(step, Limits());
    ASSERT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(field));
  };
  using Step = v1::ReplicaStep;
  expect_refused("released_slots", [](Step& s) { s.set_released_slots(0, 64); });
  expect_refused("setups.slot", [](Step& s) { s.mutable_setups(0)->set_slot(-1); });
  expect_refused("setups.tokens", [](Step& s) { s.mutable_setups(0)->set_tokens(0, 32000); });
  expect_refused("setups.tokens", [](Step& s) { s.mutable_setups(0)->clear_tokens(); });
  expect_refused("setups.prompt_tokens",
                 [](Step& s) { s.mutable_setups(0)->set_prompt_tokens(2); });
  expect_refused("setups.logit_bias", [](Step& s) {
    (*s.mutable_setups(0)->mutable_sampling()->mutable_logit_bias())[-1] = 1;
  });
  expect_refused("setups.bad_words", [](Step& s) {
    s.mutable_setups(0)->mutable_sampling()->add_bad_words()->add_ids(32000);
  });
  expect_refused("setups.stop_token_ids",
                 [](Step& s) { s.mutable_setups(0)->mutable_sampling()->add_stop_token_ids(-5); });
  expect_refused("copies.from", [](Step& s) { s.mutable_copies(0)->set_from(1000); });
  expect_refused("copies.to", [](Step& s) { s.mutable_copies(0)->set_to(-1); });
  expect_refused("copies.kv_group", [](Step& s) { s.mutable_copies(0)->set_kv_group(1); });
  expect_refused("work.slot", [](Step& s) { s.mutable_work(0)->set_slot(64); });
  expect_refused("work.start_position",
                 [](Step& s) { s.mutable_work(0)->set_start_position(2048); });
  expect_refused("work.num_tokens", [](Step& s) { s.mutable_work(0)->set_num_tokens(2049); });
  expect_refused("work.num_tokens", [](Step& s) { s.mutable_work(0)->set_num_tokens(0); });
  expect_refused("new_blocks.blocks",
                 [](Step& s) { s.mutable_work(0)->mutable_new_blocks(0)->set_blocks(0, 1000); });
  expect_refused("new_blocks.kv_group",
                 [](Step& s) { s.mutable_work(0)->mutable_new_blocks(0)->set_kv_group(-1); });
  expect_refused("replaced_blocks.index",
                 [](Step& s) { s.mutable_work(0)->mutable_replaced_blocks(0)->set_index(128); });
  expect_refused("replaced_blocks.block",
                 [](Step& s) { s.mutable_work(0)->mutable_replaced_blocks(0)->set_block(1000); });
  expect_refused("number of tokens", [](Step& s) {
    for (int i = 0; i < 3; ++i) {
      *s.add_work() = s.work(0);
      s.mutable_work(s.work_size() - 1)->set_num_tokens(2000);
    }
  });
}

}  // namespace
}  // namespace caravan
