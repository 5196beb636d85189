// What the two twins of the slot tables' operators share: where a slot's data lie, and the sampling
// row that they make. All constexpr, so that device code may call it.
#pragma once

#include "kernels/slot_tables.h"

namespace caravan {

constexpr int kUpdateWords = static_cast<int>(sizeof(SlotUpdate) / sizeof(int32_t));
constexpr int kSamplingWords = static_cast<int>(sizeof(SlotSampling) / sizeof(int32_t));

// The lists of a slot, see SlotSampling.
struct SlotLists {
  const int32_t* biases = nullptr;  // pairs of words: TokenBias
  const int32_t* bad_word_ends = nullptr;
  const int32_t* bad_word_ids = nullptr;
  const int32_t* stop_ids = nullptr;
};

constexpr SlotLists ListsOf(const SlotTables& tables, int32_t slot) {
  const SlotSampling& sampling = tables.sampling[slot];
  SlotLists lists;
  lists.biases = tables.lists + slot * tables.list_stride;
  lists.bad_word_ends = lists.biases + 2 * int64_t{sampling.num_biases};
  lists.bad_word_ids = lists.bad_word_ends + sampling.num_bad_words;
  lists.stop_ids = lists.bad_word_ids + sampling.num_bad_word_ids;
  return lists;
}

constexpr int32_t* TokensOf(const SlotTables& tables, int32_t slot) {
  return tables.tokens + slot * tables.token_stride;
}

// Whether the bad word [first, last] of ids ends behind tokens[0, position): its last id is banned.
constexpr bool Precedes(const int32_t* first, const int32_t* last, const int32_t* tokens,
                        int32_t position) {
  const int64_t before = last - first;
  if (before > position) return false;
  for (int64_t i = 0; i < before; ++i) {
    if (tokens[position - before + i] != first[i]) return false;
  }
  return true;
}

constexpr bool BansStops(const SlotSampling& sampling, int32_t position) {
  return position - sampling.prompt_tokens < sampling.min_tokens;
}

constexpr bool DecaysTopP(const SlotSampling& sampling) {
  return sampling.top_p_decay != 1 && sampling.top_k <= 0;
}

// top_p after n > 0 tokens, given top_p_decay^n.
constexpr float DecayedTopP(const SlotSampling& sampling, double power) {
  const float decayed = static_cast<float>(sampling.top_p * power);
  return decayed > sampling.top_p_min ? decayed : sampling.top_p_min;
}

// All but the biases and a decayed top_p.
constexpr SamplingRow RowOf(const SlotSampling& sampling, const int32_t* tokens, int32_t position) {
  SamplingRow row;
  const bool penalizes = sampling.repetition_penalty != 1 || sampling.frequency_penalty != 0 ||
                         sampling.presence_penalty != 0;
  if (penalizes) row.history = {tokens, static_cast<size_t>(position)};
  row.history_prompt = sampling.penalize_prompt != 0 ? 0 : sampling.prompt_tokens;
  row.repetition_penalty = sampling.repetition_penalty;
  row.frequency_penalty = sampling.frequency_penalty;
  row.presence_penalty = sampling.presence_penalty;
  row.temperature = sampling.temperature;
  row.top_k = sampling.top_k;
  row.top_p = sampling.top_p;
  row.min_p = sampling.min_p;
  row.seed = sampling.seed;
  row.position = position;
  row.sample_index = sampling.sample_index;
  row.num_logprobs = sampling.num_logprobs;
  row.processed_logprobs = sampling.processed_logprobs != 0;
  return row;
}

}  // namespace caravan
