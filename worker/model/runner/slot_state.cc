#include "worker/model/runner/slot_state.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/status.h"

namespace caravan {
namespace {

static_assert(kMaxBeamWidth <= kMaxTopLogprobs, "a search needs as many as it has beams");

bool HasPenalties(const SamplingParams& sampling) {
  return sampling.repetition_penalty != 1 || sampling.frequency_penalty != 0 ||
         sampling.presence_penalty != 0;
}

}  // namespace

void SlotState::Setup(const SlotSetup& setup, int32_t vocab_size) {
  *this = SlotState();
  active_ = true;
  vocab_size_ = vocab_size;
  tokens_ = setup.tokens;
  prompt_tokens_ = std::min(setup.prompt_tokens, static_cast<int32_t>(tokens_.size()));
  sample_index_ = setup.sample_index;
  sampling_ = setup.sampling;
}

absl::Status SlotState::BeginWork(const SlotWork& work, int32_t num_blocks, int32_t block_tokens) {
  const auto wrong = [&](const auto&... what) {
    return absl::InternalError(absl::StrCat("step plan, slot ", work.slot, ": ", what...));
  };
  if (!active_) return wrong("has no sequence");
  const auto exists = [&](int32_t block) { return block >= 0 && block < num_blocks; };
  for (const NewBlocks& more : work.new_blocks) {
    if (!std::all_of(more.blocks.begin(), more.blocks.end(), exists) || more.kv_group != 0) {
      return wrong("new block out of ", num_blocks, " of KV group ", more.kv_group);
    }
    blocks_.insert(blocks_.end(), more.blocks.begin(), more.blocks.end());
  }
  for (const ReplacedBlock& replaced : work.replaced_blocks) {
    const auto index = static_cast<size_t>(replaced.index);
    if (!exists(replaced.block) || replaced.index < 0 || index >= blocks_.size()) {
      return wrong("block ", replaced.block, " at ", replaced.index, " of ", blocks_.size());
    }
    blocks_[index] = replaced.block;
  }
  RETURN_IF_ERROR(ReplaceTokens(work));
  const int64_t end = int64_t{work.start_position} + work.num_tokens;
  if (work.start_position < 0 || work.num_tokens < 1 ||
      end > static_cast<int64_t>(tokens_.size())) {
    return wrong("positions ", work.start_position, " to ", end, " of ", tokens_.size(),
                 " known tokens");
  }
  if (end > static_cast<int64_t>(blocks_.size()) * block_tokens) {
    return wrong(end, " positions in ", blocks_.size(), " blocks of ", block_tokens);
  }
  return absl::OkStatus();
}

absl::Status SlotState::ReplaceTokens(const SlotWork& work) {
  if (work.token_ids.empty()) return absl::OkStatus();
  const auto wrong = [&](const auto&... what) {
    return absl::InternalError(absl::StrCat("step plan, slot ", work.slot, ": ", what...));
  };
  if (work.start_position < prompt_tokens_ ||
      work.start_position > static_cast<int64_t>(tokens_.size()) ||
      static_cast<int64_t>(work.token_ids.size()) > work.num_tokens) {
    return wrong(work.token_ids.size(), " token ids for ", work.num_tokens, " positions from ",
                 work.start_position, ", behind ", tokens_.size(), " tokens of which ",
                 prompt_tokens_, " are the prompt");
  }
  for (const int32_t id : work.token_ids) {
    if (id < 0 || id >= vocab_size_) return wrong("token id ", id, " of ", vocab_size_);
  }
  int32_t position = work.start_position;
  for (const int32_t id : work.token_ids) SetToken(position++, id);
  return absl::OkStatus();
}

// n counts the generated tokens since the last reset token, or since the first one.
float SlotState::TopP() const {
  if (sampling_.top_p_decay == 1 || sampling_.top_k > 0) return sampling_.top_p;
  const auto generated = std::span(tokens_).subspan(static_cast<size_t>(prompt_tokens_));
  const auto reset = std::find(generated.rbegin(), generated.rend(), sampling_.top_p_reset_id);
  const auto n = reset - generated.rbegin();
  if (n == 0) return sampling_.top_p;
  const double decayed = sampling_.top_p * std::pow(double{sampling_.top_p_decay}, n);
  return std::max(static_cast<float>(decayed), sampling_.top_p_min);
}

SamplingRow SlotState::RowFor(int32_t position) {
  const std::span<const int32_t> history = std::span(tokens_).first(static_cast<size_t>(position));
  biases_.clear();
  for (const LogitBias& bias : sampling_.logit_bias) AddBias(bias.token_id, bias.bias);
  AddBadWords(history);
  if (position - prompt_tokens_ < sampling_.min_tokens) {
    for (const int32_t stop : sampling_.stop_token_ids) {
      AddBias(stop, -std::numeric_limits<float>::infinity());
    }
  }
  SamplingRow row;
  row.biases = biases_;
  if (HasPenalties(sampling_)) row.history = history;
  row.history_prompt = sampling_.penalize_prompt ? 0 : prompt_tokens_;
  row.repetition_penalty = sampling_.repetition_penalty;
  row.frequency_penalty = sampling_.frequency_penalty;
  row.presence_penalty = sampling_.presence_penalty;
  row.temperature = sampling_.temperature;
  row.top_k = sampling_.top_k;
  row.top_p = TopP();
  row.min_p = sampling_.min_p;
  row.seed = sampling_.seed;
  row.position = position;
  row.sample_index = sample_index_;
  row.num_logprobs = std::min(sampling_.num_logprobs, kMaxTopLogprobs);
  row.processed_logprobs = sampling_.processed_logprobs;
  return row;
}

void SlotState::SetToken(int32_t position, int32_t token_id) {
  if (static_cast<int32_t>(tokens_.size()) > position)
    tokens_.resize(static_cast<size_t>(position));
  tokens_.push_back(token_id);
}

void SlotState::AddBadWords(std::span<const int32_t> history) {
  for (const std::vector<int32_t>& word : sampling_.bad_words) {
    if (word.empty() || word.size() - 1 > history.size()) continue;
    const auto before = history.last(word.size() - 1);
    if (std::equal(before.begin(), before.end(), word.begin())) {
      AddBias(word.back(), -std::numeric_limits<float>::infinity());
    }
  }
}

void SlotState::AddBias(int32_t token_id, float bias) {
  if (token_id >= 0 && token_id < vocab_size_) biases_.push_back({token_id, bias});
}

}  // namespace caravan
