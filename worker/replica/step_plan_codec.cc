#include "worker/replica/step_plan_codec.h"

#include <algorithm>
#include <string_view>

#include "common/status.h"

namespace caravan {
namespace {

absl::Status CheckRange(const char* field, int64_t value, int64_t first, int64_t end) {
  if (value >= first && value < end) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("step plan: ", field, " is ", value, ", not in [", first, ", ", end, ")"));
}

template <typename Repeated>
std::vector<int32_t> ToVector(const Repeated& repeated) {
  return {repeated.begin(), repeated.end()};
}

template <typename Repeated>
absl::Status CheckEach(const char* field, const Repeated& values, int64_t end) {
  for (const int32_t value : values) RETURN_IF_ERROR(CheckRange(field, value, 0, end));
  return absl::OkStatus();
}

absl::StatusOr<SlotSetup> DecodeSetup(const v1::ReplicaSlotSetup& message,
                                      const RunnerLimits& limits) {
  RETURN_IF_ERROR(CheckRange("setups.slot", message.slot(), 0, limits.max_slots));
  RETURN_IF_ERROR(CheckRange("number of setups.tokens", message.tokens_size(), 1,
                             int64_t{limits.max_context_tokens} + 1));
  RETURN_IF_ERROR(CheckEach("setups.tokens", message.tokens(), limits.vocab_size));
  RETURN_IF_ERROR(CheckRange("setups.prompt_tokens", message.prompt_tokens(), 0,
                             int64_t{message.tokens_size()} + 1));
  SlotSetup setup;
  setup.slot = message.slot();
  setup.tokens = ToVector(message.tokens());
  setup.prompt_tokens = message.prompt_tokens();
  setup.sampling = DecodeSampling(message.sampling());
  setup.sample_index = message.sample_index();
  const SamplingParams& sampling = setup.sampling;
  for (const LogitBias& bias : sampling.logit_bias) {
    RETURN_IF_ERROR(CheckRange("setups.logit_bias", bias.token_id, 0, limits.vocab_size));
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    RETURN_IF_ERROR(CheckEach("setups.bad_words", word, limits.vocab_size));
  }
  RETURN_IF_ERROR(CheckEach("setups.stop_token_ids", sampling.stop_token_ids, limits.vocab_size));
  for (const std::vector<int32_t>& sequence : sampling.stop_sequences) {
    RETURN_IF_ERROR(CheckEach("setups.stop_sequences", sequence, limits.vocab_size));
  }
  return setup;
}

absl::StatusOr<SlotWork> DecodeWork(const v1::ReplicaSlotWork& message,
                                    const RunnerLimits& limits) {
  RETURN_IF_ERROR(CheckRange("work.slot", message.slot(), 0, limits.max_slots));
  RETURN_IF_ERROR(
      CheckRange("work.start_position", message.start_position(), 0, limits.max_context_tokens));
  RETURN_IF_ERROR(CheckRange("work.num_tokens", message.num_tokens(), 1,
                             int64_t{limits.max_context_tokens} - message.start_position() + 1));
  RETURN_IF_ERROR(CheckRange("number of work.token_ids", message.token_ids_size(), 0,
                             int64_t{message.num_tokens()} + 1));
  RETURN_IF_ERROR(CheckEach("work.token_ids", message.token_ids(), limits.vocab_size));
  SlotWork work;
  work.slot = message.slot();
  work.start_position = message.start_position();
  work.num_tokens = message.num_tokens();
  work.sample = message.sample();
  work.token_ids = ToVector(message.token_ids());
  for (const v1::ReplicaNewBlocks& added : message.new_blocks()) {
    RETURN_IF_ERROR(CheckRange("new_blocks.kv_group", added.kv_group(), 0, 1));
    RETURN_IF_ERROR(CheckEach("new_blocks.blocks", added.blocks(), limits.num_blocks));
    work.new_blocks.push_back({added.kv_group(), ToVector(added.blocks())});
  }
  const int64_t table_blocks =
      (int64_t{limits.max_context_tokens} + limits.block_tokens - 1) / limits.block_tokens;
  for (const v1::ReplicaReplacedBlock& replaced : message.replaced_blocks()) {
    RETURN_IF_ERROR(CheckRange("replaced_blocks.kv_group", replaced.kv_group(), 0, 1));
    RETURN_IF_ERROR(CheckRange("replaced_blocks.index", replaced.index(), 0, table_blocks));
    RETURN_IF_ERROR(CheckRange("replaced_blocks.block", replaced.block(), 0, limits.num_blocks));
    work.replaced_blocks.push_back({replaced.kv_group(), replaced.index(), replaced.block()});
  }
  return work;
}

}  // namespace

void EncodeSampling(const SamplingParams& params, v1::WorkerSampling* out) {
  out->set_temperature(params.temperature);
  out->set_top_k(static_cast<uint32_t>(params.top_k));
  out->set_top_p(params.top_p);
  out->set_min_p(params.min_p);
  out->set_repetition_penalty(params.repetition_penalty);
  out->set_presence_penalty(params.presence_penalty);
  out->set_frequency_penalty(params.frequency_penalty);
  for (const LogitBias& bias : params.logit_bias) {
    (*out->mutable_logit_bias())[bias.token_id] = bias.bias;
  }
  for (const std::vector<int32_t>& word : params.bad_words) {
    out->add_bad_words()->mutable_ids()->Add(word.begin(), word.end());
  }
  out->mutable_stop_token_ids()->Add(params.stop_token_ids.begin(), params.stop_token_ids.end());
  out->set_min_tokens(static_cast<uint32_t>(params.min_tokens));
  out->set_max_tokens(static_cast<uint32_t>(params.max_tokens));
  out->set_num_logprobs(params.num_logprobs);
  out->set_processed_logprobs(params.processed_logprobs);
  out->set_seed(params.seed);
  out->set_top_p_decay(params.top_p_decay);
  out->set_top_p_min(params.top_p_min);
  if (params.top_p_reset_id >= 0) out->set_top_p_reset_id(params.top_p_reset_id);
  out->set_penalize_prompt(params.penalize_prompt);
  for (const std::vector<int32_t>& sequence : params.stop_sequences) {
    out->add_stop_sequences()->mutable_ids()->Add(sequence.begin(), sequence.end());
  }
}

SamplingParams DecodeSampling(const v1::WorkerSampling& message) {
  SamplingParams params;
  params.temperature = message.temperature();
  params.top_k = static_cast<int32_t>(message.top_k());
  params.top_p = message.top_p();
  params.min_p = message.min_p();
  params.repetition_penalty = message.repetition_penalty();
  params.presence_penalty = message.presence_penalty();
  params.frequency_penalty = message.frequency_penalty();
  for (const auto& [token_id, bias] : message.logit_bias()) {
    params.logit_bias.push_back({token_id, bias});
  }
  std::sort(params.logit_bias.begin(), params.logit_bias.end(),
            [](const LogitBias& a, const LogitBias& b) { return a.token_id < b.token_id; });
  for (const v1::WorkerTokens& word : message.bad_words()) {
    params.bad_words.push_back(ToVector(word.ids()));
  }
  params.stop_token_ids = ToVector(message.stop_token_ids());
  params.min_tokens = static_cast<int32_t>(message.min_tokens());
  params.max_tokens = static_cast<int32_t>(message.max_tokens());
  params.num_logprobs = message.num_logprobs();
  params.processed_logprobs = message.processed_logprobs();
  params.seed = message.seed();
  if (message.top_p_decay() != 0) params.top_p_decay = message.top_p_decay();
  if (message.top_p_min() != 0) params.top_p_min = message.top_p_min();
  if (message.has_top_p_reset_id()) params.top_p_reset_id = message.top_p_reset_id();
  params.penalize_prompt = message.penalize_prompt();
  for (const v1::WorkerTokens& sequence : message.stop_sequences()) {
    params.stop_sequences.push_back(ToVector(sequence.ids()));
  }
  return params;
}

void EncodeStepPlan(const StepPlan& plan, v1::ReplicaStep* out) {
  out->Clear();
  out->set_step(plan.step);
  out->mutable_released_slots()->Add(plan.released_slots.begin(), plan.released_slots.end());
  for (const SlotSetup& setup : plan.setups) {
    v1::ReplicaSlotSetup* message = out->add_setups();
    message->set_slot(setup.slot);
    message->mutable_tokens()->Add(setup.tokens.begin(), setup.tokens.end());
    message->set_prompt_tokens(setup.prompt_tokens);
    EncodeSampling(setup.sampling, message->mutable_sampling());
    message->set_sample_index(setup.sample_index);
  }
  for (const KvBlockCopy& copy : plan.copies) {
    v1::ReplicaBlockCopy* message = out->add_copies();
    message->set_kv_group(copy.kv_group);
    message->set_from(copy.from);
    message->set_to(copy.to);
  }
  for (const SlotWork& work : plan.work) {
    v1::ReplicaSlotWork* message = out->add_work();
    message->set_slot(work.slot);
    message->set_start_position(work.start_position);
    message->set_num_tokens(work.num_tokens);
    message->set_sample(work.sample);
    message->mutable_token_ids()->Add(work.token_ids.begin(), work.token_ids.end());
    for (const NewBlocks& added : work.new_blocks) {
      v1::ReplicaNewBlocks* blocks = message->add_new_blocks();
      blocks->set_kv_group(added.kv_group);
      blocks->mutable_blocks()->Add(added.blocks.begin(), added.blocks.end());
    }
    for (const ReplacedBlock& replaced : work.replaced_blocks) {
      v1::ReplicaReplacedBlock* block = message->add_replaced_blocks();
      block->set_kv_group(replaced.kv_group);
      block->set_index(replaced.index);
      block->set_block(replaced.block);
    }
  }
}

absl::StatusOr<StepPlan> DecodeStepPlan(const v1::ReplicaStep& message,
                                        const RunnerLimits& limits) {
  StepPlan plan;
  plan.step = message.step();
  RETURN_IF_ERROR(CheckEach("released_slots", message.released_slots(), limits.max_slots));
  plan.released_slots = ToVector(message.released_slots());
  for (const v1::ReplicaSlotSetup& setup : message.setups()) {
    ASSIGN_OR_RETURN(plan.setups.emplace_back(), DecodeSetup(setup, limits));
  }
  for (const v1::ReplicaBlockCopy& copy : message.copies()) {
    RETURN_IF_ERROR(CheckRange("copies.kv_group", copy.kv_group(), 0, 1));
    RETURN_IF_ERROR(CheckRange("copies.from", copy.from(), 0, limits.num_blocks));
    RETURN_IF_ERROR(CheckRange("copies.to", copy.to(), 0, limits.num_blocks));
    plan.copies.push_back({copy.kv_group(), copy.from(), copy.to()});
  }
  int64_t num_tokens = 0;
  for (const v1::ReplicaSlotWork& work : message.work()) {
    ASSIGN_OR_RETURN(plan.work.emplace_back(), DecodeWork(work, limits));
    num_tokens += plan.work.back().num_tokens;
  }
  RETURN_IF_ERROR(
      CheckRange("number of tokens", num_tokens, 0, int64_t{limits.max_batch_tokens} + 1));
  return plan;
}

}  // namespace caravan
