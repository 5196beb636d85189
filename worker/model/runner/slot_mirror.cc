#include "worker/model/runner/slot_mirror.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>

#include "common/status.h"

namespace caravan {
namespace {

template <typename... What>
absl::Status Wrong(int32_t slot, const What&... what) {
  return absl::InternalError(absl::StrCat("step plan, slot ", slot, ": ", what...));
}

// Appends TokenBias entries, each id once.
int32_t AppendBiases(const std::vector<LogitBias>& biases, int32_t vocab_size,
                     std::vector<int32_t>* lists) {
  std::map<int32_t, float> sums;
  for (const LogitBias& bias : biases) {
    if (bias.token_id >= 0 && bias.token_id < vocab_size) sums[bias.token_id] += bias.bias;
  }
  for (const auto& [id, bias] : sums) {
    lists->push_back(id);
    lists->push_back(std::bit_cast<int32_t>(bias));
  }
  return static_cast<int32_t>(sums.size());
}

void AppendBadWords(const std::vector<std::vector<int32_t>>& words, int32_t vocab_size,
                    SlotSampling* sampling, std::vector<int32_t>* lists) {
  std::vector<int32_t> ids;
  for (const std::vector<int32_t>& word : words) {
    if (word.empty() || word.back() < 0 || word.back() >= vocab_size) continue;
    ids.insert(ids.end(), word.begin(), word.end());
    lists->push_back(static_cast<int32_t>(ids.size()));
    ++sampling->num_bad_words;
  }
  lists->insert(lists->end(), ids.begin(), ids.end());
  sampling->num_bad_word_ids = static_cast<int32_t>(ids.size());
}

}  // namespace

absl::Status MakeSlotSampling(const SlotSetup& setup, int32_t vocab_size, SlotSampling* sampling,
                              std::vector<int32_t>* lists) {
  const SamplingParams& from = setup.sampling;
  *sampling = {};
  sampling->seed = from.seed;
  sampling->sample_index = setup.sample_index;
  sampling->repetition_penalty = from.repetition_penalty;
  sampling->frequency_penalty = from.frequency_penalty;
  sampling->presence_penalty = from.presence_penalty;
  sampling->temperature = from.temperature;
  sampling->top_k = from.top_k;
  sampling->top_p = from.top_p;
  sampling->min_p = from.min_p;
  sampling->num_logprobs = std::min(from.num_logprobs, kMaxTopLogprobs);
  sampling->processed_logprobs = from.processed_logprobs ? 1 : 0;
  sampling->prompt_tokens =
      std::min(setup.prompt_tokens, static_cast<int32_t>(setup.tokens.size()));
  sampling->penalize_prompt = from.penalize_prompt ? 1 : 0;
  sampling->min_tokens = from.min_tokens;
  sampling->top_p_decay = from.top_p_decay;
  sampling->top_p_min = from.top_p_min;
  sampling->top_p_reset_id = from.top_p_reset_id;
  lists->clear();
  sampling->num_biases = AppendBiases(from.logit_bias, vocab_size, lists);
  AppendBadWords(from.bad_words, vocab_size, sampling, lists);
  for (const int32_t id : from.stop_token_ids) {
    if (id < 0 || id >= vocab_size) continue;
    lists->push_back(id);
    ++sampling->num_stop_ids;
  }
  if (sampling->num_biases > kMaxSlotBiases || sampling->num_bad_words > kMaxSlotBadWords ||
      sampling->num_bad_word_ids > kMaxSlotBadWordIds || sampling->num_stop_ids > kMaxSlotStopIds) {
    return Wrong(setup.slot, sampling->num_biases, " logit biases, ", sampling->num_bad_words,
                 " bad words of ", sampling->num_bad_word_ids, " ids, ", sampling->num_stop_ids,
                 " stop ids");
  }
  return absl::OkStatus();
}

SlotMirror::SlotMirror(const RunnerLimits& limits)
    : limits_(limits), slots_(static_cast<size_t>(limits.max_slots)) {}

void SlotMirror::Clear() { std::fill(slots_.begin(), slots_.end(), Slot()); }

absl::Status SlotMirror::Apply(const StepPlan& plan, const SlotChange& change) {
  RETURN_IF_ERROR(CheckPlan(plan));
  for (const int32_t slot : plan.released_slots) at(slot) = Slot();
  for (const SlotSetup& setup : plan.setups) RETURN_IF_ERROR(Setup(setup, change));
  for (const SlotWork& work : plan.work) RETURN_IF_ERROR(BeginWork(work, change));
  return absl::OkStatus();
}

absl::Status SlotMirror::CheckSlot(int32_t slot) const {
  if (slot >= 0 && slot < limits_.max_slots) return absl::OkStatus();
  return Wrong(slot, "there are ", limits_.max_slots);
}

absl::Status SlotMirror::CheckPlan(const StepPlan& plan) const {
  if (plan.num_tokens() > limits_.max_batch_tokens) {
    return absl::InternalError(absl::StrCat("step plan: ", plan.num_tokens(), " tokens, at most ",
                                            limits_.max_batch_tokens, " fit"));
  }
  for (const int32_t slot : plan.released_slots) RETURN_IF_ERROR(CheckSlot(slot));
  for (const SlotSetup& setup : plan.setups) RETURN_IF_ERROR(CheckSlot(setup.slot));
  std::vector<bool> works(slots_.size());
  for (const SlotWork& work : plan.work) {
    RETURN_IF_ERROR(CheckSlot(work.slot));
    if (works[static_cast<size_t>(work.slot)]) return Wrong(work.slot, "works twice in one step");
    works[static_cast<size_t>(work.slot)] = true;
  }
  for (const KvBlockCopy& copy : plan.copies) {
    const auto exists = [this](int32_t b) { return b >= 0 && b < limits_.num_blocks; };
    if (!exists(copy.from) || !exists(copy.to) || copy.kv_group != 0) {
      return absl::InternalError(absl::StrCat("step plan: copy of block ", copy.from, " to ",
                                              copy.to, " of ", limits_.num_blocks));
    }
  }
  return absl::OkStatus();
}

absl::Status SlotMirror::Setup(const SlotSetup& setup, const SlotChange& change) {
  const auto tokens = static_cast<int32_t>(setup.tokens.size());
  if (tokens > limits_.max_context_tokens) {
    return Wrong(setup.slot, tokens, " tokens exceed ", limits_.max_context_tokens, " positions");
  }
  SlotSampling sampling;
  std::vector<int32_t> lists;
  RETURN_IF_ERROR(MakeSlotSampling(setup, limits_.vocab_size, &sampling, &lists));
  at(setup.slot) = {true, sampling.prompt_tokens, tokens, 0};
  change(SlotArray::kTokens, setup.slot, 0, setup.tokens);
  if (!lists.empty()) change(SlotArray::kLists, setup.slot, 0, lists);
  using Words = std::array<int32_t, sizeof(SlotSampling) / sizeof(int32_t)>;
  change(SlotArray::kSampling, setup.slot, 0, std::bit_cast<Words>(sampling));
  return absl::OkStatus();
}

absl::Status SlotMirror::BeginWork(const SlotWork& work, const SlotChange& change) {
  Slot& slot = at(work.slot);
  if (!slot.active) return Wrong(work.slot, "has no sequence");
  RETURN_IF_ERROR(ChangeBlocks(work, change));
  RETURN_IF_ERROR(ReplaceTokens(work, change));
  const int64_t end = int64_t{work.start_position} + work.num_tokens;
  if (work.start_position < 0 || work.num_tokens < 1 || end > slot.known_tokens) {
    return Wrong(work.slot, "positions ", work.start_position, " to ", end, " of ",
                 slot.known_tokens, " known tokens");
  }
  if (end > limits_.max_context_tokens) {
    return Wrong(work.slot, end, " tokens exceed ", limits_.max_context_tokens, " positions");
  }
  if (end > int64_t{slot.num_blocks} * limits_.block_tokens) {
    return Wrong(work.slot, end, " positions in ", slot.num_blocks, " blocks of ",
                 limits_.block_tokens);
  }
  if (work.sample) slot.known_tokens = static_cast<int32_t>(end) + 1;
  return absl::OkStatus();
}

absl::Status SlotMirror::ChangeBlocks(const SlotWork& work, const SlotChange& change) {
  Slot& slot = at(work.slot);
  const int64_t most =
      (int64_t{limits_.max_context_tokens} + limits_.block_tokens - 1) / limits_.block_tokens;
  const auto exists = [this](int32_t b) { return b >= 0 && b < limits_.num_blocks; };
  for (const NewBlocks& more : work.new_blocks) {
    if (!std::all_of(more.blocks.begin(), more.blocks.end(), exists) || more.kv_group != 0) {
      return Wrong(work.slot, "new block out of ", limits_.num_blocks, " of KV group ",
                   more.kv_group);
    }
    if (slot.num_blocks + static_cast<int64_t>(more.blocks.size()) > most) {
      return Wrong(work.slot, slot.num_blocks, " and ", more.blocks.size(),
                   " more blocks, a sequence has at most ", most);
    }
    if (more.blocks.empty()) continue;
    change(SlotArray::kBlocks, work.slot, slot.num_blocks, more.blocks);
    slot.num_blocks += static_cast<int32_t>(more.blocks.size());
  }
  for (const ReplacedBlock& replaced : work.replaced_blocks) {
    if (!exists(replaced.block) || replaced.index < 0 || replaced.index >= slot.num_blocks ||
        replaced.kv_group != 0) {
      return Wrong(work.slot, "block ", replaced.block, " at ", replaced.index, " of ",
                   slot.num_blocks);
    }
    change(SlotArray::kBlocks, work.slot, replaced.index, std::span(&replaced.block, 1));
  }
  return absl::OkStatus();
}

absl::Status SlotMirror::ReplaceTokens(const SlotWork& work, const SlotChange& change) {
  if (work.token_ids.empty()) return absl::OkStatus();
  Slot& slot = at(work.slot);
  const auto count = static_cast<int64_t>(work.token_ids.size());
  if (work.start_position < slot.prompt_tokens || work.start_position > slot.known_tokens ||
      count > work.num_tokens || work.start_position + count > limits_.max_context_tokens) {
    return Wrong(work.slot, count, " token ids for ", work.num_tokens, " positions from ",
                 work.start_position, ", behind ", slot.known_tokens, " tokens of which ",
                 slot.prompt_tokens, " are the prompt");
  }
  for (const int32_t id : work.token_ids) {
    if (id < 0 || id >= limits_.vocab_size) {
      return Wrong(work.slot, "token id ", id, " of ", limits_.vocab_size);
    }
  }
  change(SlotArray::kTokens, work.slot, work.start_position, work.token_ids);
  slot.known_tokens = work.start_position + static_cast<int32_t>(count);
  return absl::OkStatus();
}

}  // namespace caravan
