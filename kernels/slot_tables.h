// What a device remembers of the running sequences, so that a step uploads only what changed and
// the ids that one step draws feed the next one without passing through the host.
//
// A step on a stream:
//   ApplySlotUpdates   new sequences, appended and replaced blocks, token ids chosen by the host
//   BuildStepInputs    the operators' inputs, from a few numbers a sequence
//   Embedding … Sample
//   StoreSampled       the drawn ids, into the tables
// All but the first are of fixed size for a fixed number of rows, so a CUDA graph can hold them.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device_stream.h"
#include "kernels/sampling.h"

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

// Memory of the stream's device, owned by the caller. A slot takes 4 · (token_stride + block_stride
// + list_stride) + 88 bytes: 66 KiB with 8192 positions, blocks of 16 and kMaxSlotListWords. There
// are no counts of tokens: penalties are computed from the tokens themselves.
struct SlotTables {
  int32_t num_slots = 0;
  int32_t* tokens = nullptr;  // [slots, token_stride] ids by absolute position
  int64_t token_stride = 0;   // at least the most positions + 1
  int32_t* blocks = nullptr;  // [slots, block_stride] KV blocks, a PagedBatch's block_tables
  int64_t block_stride = 0;
  int32_t* lists = nullptr;          // [slots, list_stride] see SlotSampling
  int64_t list_stride = 0;           // at least the most list_words(): kMaxSlotListWords
  SlotSampling* sampling = nullptr;  // [slots]
};

// Which of a slot's arrays an update writes.
enum class SlotArray : int32_t { kTokens, kBlocks, kLists, kSampling };

// `count` words, at words[begin] of the upload, replace those from `offset` on.
struct SlotUpdate {
  SlotArray array = SlotArray::kTokens;
  int32_t slot = 0;
  int32_t offset = 0;
  int32_t count = 0;
  int32_t begin = 0;
};
static_assert(sizeof(SlotUpdate) == 20);

// One upload: the payloads, behind them the updates.
struct SlotUpload {
  const int32_t* words = nullptr;  // in the stream's device's memory
  int32_t payload_words = 0;       // the updates begin here
  int32_t num_updates = 0;
  int32_t largest_count = 0;  // of one update
  int64_t num_words() const {
    return payload_words + int64_t{num_updates} * int64_t{sizeof(SlotUpdate) / sizeof(int32_t)};
  }
};

// Collects a step's updates in memory that is then copied to the device as it is (pinned memory,
// which must rest until that copy has run). Plain writes; for one thread.
class SlotUpdateBuffer {
 public:
  explicit SlotUpdateBuffer(std::span<int32_t> memory) : memory_(memory) {}

  void Clear() { *this = SlotUpdateBuffer(memory_); }
  bool empty() const { return num_updates_ == 0; }
  // Most words that one more update can have; below 1: the buffer is full, apply it and clear it.
  int64_t room() const;

  // REQUIRES: words.size() ≤ room(). Updates of one upload must not overlap.
  void Add(SlotArray array, int32_t slot, int32_t offset, std::span<const int32_t> words);
  void AddSampling(int32_t slot, const SlotSampling& sampling);

  // What lies in the buffer, with `words` pointing to it (as the CPU takes it); for another device,
  // point `words` to the copy there.
  SlotUpload Finish();

 private:
  std::span<int32_t> memory_;  // payloads from the front, updates from the back
  int32_t payload_words_ = 0;
  int32_t num_updates_ = 0;
  int32_t largest_count_ = 0;
};

// REQUIRES of each update: the slot exists, and offset + count is within the array's stride.
void ApplySlotUpdates(const SlotTables& tables, const SlotUpload& upload, DeviceStream stream);

// One sequence's share of a step.
struct StepRow {
  int32_t slot = -1;  // -1: padding, which stands for one token that does nothing
  int32_t start_position = 0;
  int32_t num_tokens = 1;
  int32_t first_token = 0;  // among the tokens of the step: the sum of num_tokens before this row
  int32_t sample_row = -1;  // draws the token of position start_position + num_tokens as this row
                            // of the logits; -1: draws none
  // The first so many tokens have the rope rows from rope_row on, the others those of their
  // positions.
  int32_t num_rope_rows = 0;
  int32_t rope_row = 0;
};

// Inputs of the operators, in the stream's device's memory.
struct StepInputs {
  std::span<int32_t> token_ids;        // [tokens] -1: padding
  std::span<int32_t> rope_rows;        // [tokens]
  std::span<int32_t> query_starts;     // [rows + 1]
  std::span<int32_t> context_lengths;  // [rows] 0: padding
  std::span<int32_t> table_rows;       // [rows] the slot, as a row of SlotTables::blocks
  std::span<int32_t> logit_rows;       // [samples] rows of the hidden states to draw from
  std::span<SamplingRow> sampling;     // [samples] for Sample; they point into `biases` and into
                                       // the tables' tokens
  std::span<TokenBias> biases;         // [samples · kMaxComposedBiases] scratch
};

// Every token of the step belongs to one row, every sample to one row (padding rows have a
// sample_row too where the logits have a row for them).
void BuildStepInputs(const SlotTables& tables,
                     std::span<const StepRow> rows,  // [rows], in the stream's device's memory
                     int32_t vocab_size, const StepInputs& inputs, DeviceStream stream);

// tokens[row.slot][row.start_position + row.num_tokens] = outputs[row.sample_row].token_id.
void StoreSampled(std::span<const StepRow> rows,            // [rows]
                  std::span<const SamplingOutput> outputs,  // [samples]
                  const SlotTables& tables, DeviceStream stream);

}  // namespace caravan
