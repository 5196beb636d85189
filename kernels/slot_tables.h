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
#include "kernels/slot_sampling.h"

namespace caravan {

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
