#include "kernels/slot_tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/dispatch.h"
#include "kernels/slot_rows.h"

namespace caravan {
namespace cuda {  // slot_tables.cu
void ApplySlotUpdates(const SlotTables& tables, const SlotUpload& upload, CudaStream& stream);
void BuildStepInputs(const SlotTables& tables, std::span<const StepRow> rows, int32_t vocab_size,
                     const StepInputs& inputs, CudaStream& stream);
void StoreSampled(std::span<const StepRow> rows, std::span<const SamplingOutput> outputs,
                  const SlotTables& tables, CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

// A slot's part of an array, as words, and how many there are.
std::span<int32_t> WordsOf(const SlotTables& tables, SlotArray array, int32_t slot) {
  const auto part = [&](int32_t* words, int64_t stride) -> std::span<int32_t> {
    return {words + slot * stride, static_cast<size_t>(stride)};
  };
  switch (array) {
    case SlotArray::kTokens:
      return part(tables.tokens, tables.token_stride);
    case SlotArray::kBlocks:
      return part(tables.blocks, tables.block_stride);
    case SlotArray::kLists:
      return part(tables.lists, tables.list_stride);
    case SlotArray::kSampling:
      return part(reinterpret_cast<int32_t*>(tables.sampling), kSamplingWords);
  }
  CARAVAN_CHECK(false, "unknown array ", static_cast<int>(array));
  return {};
}

void ApplySlotUpdates(const SlotTables& tables, const SlotUpload& upload) {
  for (int32_t i = 0; i < upload.num_updates; ++i) {
    SlotUpdate update;
    std::memcpy(static_cast<void*>(&update),
                upload.words + upload.payload_words + int64_t{i} * kUpdateWords, sizeof(update));
    CARAVAN_CHECK(update.slot >= 0 && update.slot < tables.num_slots, update.slot, " of ",
                  tables.num_slots);
    const std::span<int32_t> words = WordsOf(tables, update.array, update.slot);
    CARAVAN_CHECK(update.offset >= 0 && update.count >= 0 &&
                      int64_t{update.offset} + update.count <= static_cast<int64_t>(words.size()),
                  update.count, " words from ", update.offset, " of ", words.size());
    std::copy_n(upload.words + update.begin, update.count, words.begin() + update.offset);
  }
}

std::span<const TokenBias> ComposeBiases(const SlotTables& tables, int32_t slot, int32_t position,
                                         int32_t vocab_size, TokenBias* biases) {
  const SlotSampling& sampling = tables.sampling[slot];
  const SlotLists lists = ListsOf(tables, slot);
  const int32_t* tokens = TokensOf(tables, slot);
  size_t n = 0;
  const auto add = [&](TokenBias bias) {
    if (bias.token_id >= 0 && bias.token_id < vocab_size) biases[n++] = bias;
  };
  for (int32_t i = 0; i < sampling.num_biases; ++i) {
    TokenBias bias;
    std::memcpy(static_cast<void*>(&bias), lists.biases + 2 * int64_t{i}, sizeof(bias));
    add(bias);
  }
  constexpr float kBanned = -std::numeric_limits<float>::infinity();
  for (int32_t i = 0, begin = 0; i < sampling.num_bad_words; begin = lists.bad_word_ends[i++]) {
    const int32_t* first = lists.bad_word_ids + begin;
    const int32_t* last = lists.bad_word_ids + lists.bad_word_ends[i] - 1;
    if (last >= first && Precedes(first, last, tokens, position)) add({*last, kBanned});
  }
  if (BansStops(sampling, position)) {
    for (int32_t i = 0; i < sampling.num_stop_ids; ++i) add({lists.stop_ids[i], kBanned});
  }
  return {biases, n};
}

float TopP(const SlotSampling& sampling, const int32_t* tokens, int32_t position) {
  if (!DecaysTopP(sampling)) return sampling.top_p;
  int32_t n = 0;
  while (n < position - sampling.prompt_tokens &&
         tokens[position - 1 - n] != sampling.top_p_reset_id) {
    ++n;
  }
  return n == 0 ? sampling.top_p : DecayedTopP(sampling, std::pow(double{sampling.top_p_decay}, n));
}

void BuildSamplingRow(const SlotTables& tables, const StepRow& row, int32_t vocab_size,
                      const StepInputs& inputs) {
  const auto sample = static_cast<size_t>(row.sample_row);
  SamplingRow& result = inputs.sampling[sample];
  result = SamplingRow();
  result.skipped = row.slot < 0;
  if (result.skipped) return;
  const int32_t position = row.start_position + row.num_tokens;
  const int32_t* tokens = TokensOf(tables, row.slot);
  const SlotSampling& sampling = tables.sampling[row.slot];
  result = RowOf(sampling, tokens, position);
  result.top_p = TopP(sampling, tokens, position);
  result.biases = ComposeBiases(tables, row.slot, position, vocab_size,
                                &inputs.biases[sample * kMaxComposedBiases]);
}

void BuildStepInputs(const SlotTables& tables, std::span<const StepRow> rows, int32_t vocab_size,
                     const StepInputs& inputs) {
  inputs.query_starts[0] = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const StepRow& row = rows[r];
    const bool padding = row.slot < 0;
    for (int32_t i = 0; i < row.num_tokens; ++i) {
      const auto token = static_cast<size_t>(row.first_token) + static_cast<size_t>(i);
      const int32_t position = row.start_position + i;
      inputs.token_ids[token] = padding ? -1 : TokensOf(tables, row.slot)[position];
      inputs.rope_rows[token] = i < row.num_rope_rows ? row.rope_row + i : position;
    }
    inputs.query_starts[r + 1] = row.first_token + row.num_tokens;
    inputs.context_lengths[r] = padding ? 0 : row.start_position + row.num_tokens;
    inputs.table_rows[r] = padding ? 0 : row.slot;
    if (row.sample_row < 0) continue;
    inputs.logit_rows[static_cast<size_t>(row.sample_row)] = row.first_token + row.num_tokens - 1;
    BuildSamplingRow(tables, row, vocab_size, inputs);
  }
}

void StoreSampled(std::span<const StepRow> rows, std::span<const SamplingOutput> outputs,
                  const SlotTables& tables) {
  for (const StepRow& row : rows) {
    if (row.slot < 0 || row.sample_row < 0) continue;
    TokensOf(tables, row.slot)[row.start_position + row.num_tokens] =
        outputs[static_cast<size_t>(row.sample_row)].token_id;
  }
}

}  // namespace
}  // namespace cpu

int64_t SlotUpdateBuffer::room() const {
  return static_cast<int64_t>(memory_.size()) - payload_words_ -
         (int64_t{num_updates_} + 1) * kUpdateWords;
}

void SlotUpdateBuffer::Add(SlotArray array, int32_t slot, int32_t offset,
                           std::span<const int32_t> words) {
  const auto count = static_cast<int64_t>(words.size());
  CARAVAN_CHECK(count <= room(), count, " words, there is room for ", room());
  CARAVAN_CHECK(slot >= 0 && offset >= 0, "slot ", slot, ", offset ", offset);
  if (count == 0) return;
  const SlotUpdate update = {array, slot, offset, static_cast<int32_t>(count), payload_words_};
  std::copy(words.begin(), words.end(), memory_.begin() + payload_words_);
  payload_words_ += update.count;
  ++num_updates_;
  std::memcpy(&memory_[memory_.size() - static_cast<size_t>(num_updates_) * kUpdateWords], &update,
              sizeof(update));
  largest_count_ = std::max(largest_count_, update.count);
}

void SlotUpdateBuffer::AddSampling(int32_t slot, const SlotSampling& sampling) {
  int32_t words[kSamplingWords];
  std::memcpy(words, &sampling, sizeof(sampling));
  Add(SlotArray::kSampling, slot, 0, words);
}

SlotUpload SlotUpdateBuffer::Finish() {
  const size_t words = static_cast<size_t>(num_updates_) * kUpdateWords;
  std::memmove(memory_.data() + payload_words_, memory_.data() + memory_.size() - words,
               words * sizeof(int32_t));
  return {memory_.data(), payload_words_, num_updates_, largest_count_};
}

void ApplySlotUpdates(const SlotTables& tables, const SlotUpload& upload, DeviceStream stream) {
  if (upload.num_updates == 0) return;
  CARAVAN_DISPATCH(ApplySlotUpdates, stream, tables, upload);
}

void BuildStepInputs(const SlotTables& tables, std::span<const StepRow> rows, int32_t vocab_size,
                     const StepInputs& inputs, DeviceStream stream) {
  CARAVAN_CHECK_EQ(inputs.query_starts.size(), rows.size() + 1);
  CARAVAN_CHECK_EQ(inputs.context_lengths.size(), rows.size());
  CARAVAN_CHECK_EQ(inputs.table_rows.size(), rows.size());
  CARAVAN_CHECK_EQ(inputs.rope_rows.size(), inputs.token_ids.size());
  CARAVAN_CHECK_EQ(inputs.sampling.size(), inputs.logit_rows.size());
  CARAVAN_CHECK(inputs.biases.size() >= inputs.sampling.size() * kMaxComposedBiases,
                inputs.biases.size(), " biases for ", inputs.sampling.size(), " rows");
  CARAVAN_DISPATCH(BuildStepInputs, stream, tables, rows, vocab_size, inputs);
}

void StoreSampled(std::span<const StepRow> rows, std::span<const SamplingOutput> outputs,
                  const SlotTables& tables, DeviceStream stream) {
  if (rows.empty()) return;
  CARAVAN_DISPATCH(StoreSampled, stream, rows, outputs, tables);
}

}  // namespace caravan
