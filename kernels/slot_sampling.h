// How the tokens of one running sequence are drawn, as a device keeps it.
#pragma once

#include <cstdint>

namespace caravan {

// Most logit biases, bad words, ids of all bad words together, and stop ids of one sequence.
constexpr int32_t kMaxSlotBiases = 1024;
constexpr int32_t kMaxSlotBadWords = 1024;
constexpr int32_t kMaxSlotBadWordIds = 4096;
constexpr int32_t kMaxSlotStopIds = 1024;
// The words of memory that they take (SlotSampling::list_words).
constexpr int64_t kMaxSlotListWords =
    2 * kMaxSlotBiases + kMaxSlotBadWords + kMaxSlotBadWordIds + kMaxSlotStopIds;
// Most TokenBias entries that these make together at one position.
constexpr int32_t kMaxComposedBiases = kMaxSlotBiases + kMaxSlotBadWords + kMaxSlotStopIds;

// How a slot's tokens are drawn: set once, when a sequence takes the slot. As in SamplingRow where
// the names are equal.
struct SlotSampling {
  uint64_t seed = 0;
  uint32_t sample_index = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  float temperature = 1;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  int32_t num_logprobs = -1;
  int32_t processed_logprobs = 0;  // 0 or 1
  int32_t prompt_tokens = 0;       // the slot's first tokens: the others count as generated
  int32_t penalize_prompt = 0;     // 1: the prompt counts as generated for the penalties too
  int32_t min_tokens = 0;          // stop ids are banned before so many generated tokens
  // Where top_k is 0: with n tokens generated since the last top_p_reset_id, or since the first
  // one, top_p is max(top_p · top_p_decay^n, top_p_min) for n > 0 (Lee et al. 2022,
  // arXiv:2206.04624).
  float top_p_decay = 1;
  float top_p_min = 0;
  int32_t top_p_reset_id = -1;
  // The slot's row of SlotTables::lists holds, one after the other: `num_biases` TokenBias of
  // different ids (2 words each); for each bad word the end of its ids among the bad words' ids;
  // those ids; the stop ids. The last id of a bad word is banned where its others precede it.
  int32_t num_biases = 0;
  int32_t num_bad_words = 0;
  int32_t num_bad_word_ids = 0;  // of all bad words together
  int32_t num_stop_ids = 0;

  int64_t list_words() const {
    return 2 * int64_t{num_biases} + num_bad_words + num_bad_word_ids + num_stop_ids;
  }
};
static_assert(sizeof(SlotSampling) == 88);

}  // namespace caravan
