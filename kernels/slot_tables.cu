#include <algorithm>
#include <limits>

#include "kernels/device/cuda_check.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/launch.cuh"
#include "kernels/slot_rows.h"

namespace caravan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kBanned = -std::numeric_limits<float>::infinity();

__device__ int32_t* WordsOf(const SlotTables& tables, const SlotUpdate& update) {
  switch (update.array) {
    case SlotArray::kTokens:
      return tables.tokens + update.slot * tables.token_stride;
    case SlotArray::kBlocks:
      return tables.blocks + update.slot * tables.block_stride;
    case SlotArray::kLists:
      return tables.lists + update.slot * tables.list_stride;
    case SlotArray::kSampling:
      return reinterpret_cast<int32_t*>(tables.sampling + update.slot);
  }
  return nullptr;
}

// Grid: an update in x, parts of it in y. Few and short in most steps, so that nothing more is
// gained by balancing them.
__global__ void ApplySlotUpdatesKernel(SlotTables tables, SlotUpload upload) {
  const int32_t* words = upload.words + upload.payload_words + int64_t{blockIdx.x} * kUpdateWords;
  const SlotUpdate update = {static_cast<SlotArray>(words[0]), words[1], words[2], words[3],
                             words[4]};
  int32_t* to = WordsOf(tables, update) + update.offset;
  const int32_t* from = upload.words + update.begin;
  for (int32_t i = static_cast<int32_t>(blockIdx.y * kThreads + threadIdx.x); i < update.count;
       i += static_cast<int32_t>(gridDim.y) * kThreads) {
    to[i] = from[i];
  }
}

// Appends the biases of one position, in any order of the bans; `count` is in shared memory.
__device__ void ComposeBiases(const SlotTables& tables, int32_t slot, int32_t position,
                              int32_t vocab_size, TokenBias* biases, int* count) {
  const SlotSampling& sampling = tables.sampling[slot];
  const SlotLists lists = ListsOf(tables, slot);
  const auto add = [&](int32_t token_id, float bias) {
    if (token_id >= 0 && token_id < vocab_size) biases[atomicAdd(count, 1)] = {token_id, bias};
  };
  for (int i = static_cast<int>(threadIdx.x); i < sampling.num_biases; i += kThreads) {
    add(lists.biases[2 * i], __int_as_float(lists.biases[2 * i + 1]));
  }
  for (int i = static_cast<int>(threadIdx.x); i < sampling.num_bad_words; i += kThreads) {
    const int32_t begin = i == 0 ? 0 : lists.bad_word_ends[i - 1];
    const int32_t* first = lists.bad_word_ids + begin;
    const int32_t* last = lists.bad_word_ids + lists.bad_word_ends[i] - 1;
    if (last >= first && Precedes(first, last, TokensOf(tables, slot), position)) {
      add(*last, kBanned);
    }
  }
  if (!BansStops(sampling, position)) return;
  for (int i = static_cast<int>(threadIdx.x); i < sampling.num_stop_ids; i += kThreads) {
    add(lists.stop_ids[i], kBanned);
  }
}

// The last position of the reset id among the generated tokens before `position`, or the one before
// the first of them; `last` is in shared memory and holds the latter.
__device__ void FindReset(const SlotSampling& sampling, const int32_t* tokens, int32_t position,
                          int* last) {
  for (int32_t i = sampling.prompt_tokens + static_cast<int32_t>(threadIdx.x); i < position;
       i += kThreads) {
    if (tokens[i] == sampling.top_p_reset_id) atomicMax(last, i);
  }
}

__device__ void BuildSamplingRow(const SlotTables& tables, const StepRow& row, int32_t vocab_size,
                                 const StepInputs& inputs) {
  __shared__ int count;
  __shared__ int last_reset;
  SamplingRow* result = &inputs.sampling[static_cast<size_t>(row.sample_row)];
  if (row.slot < 0) {
    if (threadIdx.x == 0) {
      *result = SamplingRow();
      result->skipped = true;
    }
    return;
  }
  const int32_t position = row.start_position + row.num_tokens;
  const int32_t* tokens = TokensOf(tables, row.slot);
  const SlotSampling& sampling = tables.sampling[row.slot];
  TokenBias* biases =
      inputs.biases.data() + static_cast<int64_t>(row.sample_row) * kMaxComposedBiases;
  if (threadIdx.x == 0) {
    count = 0;
    last_reset = sampling.prompt_tokens - 1;
  }
  __syncthreads();
  ComposeBiases(tables, row.slot, position, vocab_size, biases, &count);
  if (DecaysTopP(sampling)) FindReset(sampling, tokens, position, &last_reset);
  __syncthreads();
  if (threadIdx.x != 0) return;
  SamplingRow made = RowOf(sampling, tokens, position);
  made.biases = {biases, static_cast<size_t>(count)};
  const int n = position - 1 - last_reset;
  if (DecaysTopP(sampling) && n > 0) {
    made.top_p = DecayedTopP(sampling, pow(double{sampling.top_p_decay}, double(n)));
  }
  *result = made;
}

// A block for each row: a decoding row has one token, and its lists and its history are scanned by
// the block; a prompt's ids are copied by it.
__global__ void BuildStepInputsKernel(SlotTables tables, const StepRow* rows, int32_t vocab_size,
                                      StepInputs inputs) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const StepRow row = rows[blockIdx.x];
  const bool padding = row.slot < 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < row.num_tokens; i += kThreads) {
    const int32_t position = row.start_position + i;
    const int64_t token = int64_t{row.first_token} + i;
    inputs.token_ids.data()[token] = padding ? -1 : TokensOf(tables, row.slot)[position];
    inputs.rope_rows.data()[token] = i < row.num_rope_rows ? row.rope_row + i : position;
  }
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) inputs.query_starts.data()[0] = 0;
    inputs.query_starts.data()[blockIdx.x + 1] = row.first_token + row.num_tokens;
    inputs.context_lengths.data()[blockIdx.x] = padding ? 0 : row.start_position + row.num_tokens;
    inputs.table_rows.data()[blockIdx.x] = padding ? 0 : row.slot;
    if (row.sample_row >= 0) {
      inputs.logit_rows.data()[row.sample_row] = row.first_token + row.num_tokens - 1;
    }
  }
  if (row.sample_row >= 0) BuildSamplingRow(tables, row, vocab_size, inputs);
}

// A thread for each row: one word moves.
__global__ void StoreSampledKernel(const StepRow* rows, int num_rows, const SamplingOutput* outputs,
                                   SlotTables tables) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const int r = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (r >= num_rows || rows[r].slot < 0 || rows[r].sample_row < 0) return;
  TokensOf(tables, rows[r].slot)[rows[r].start_position + rows[r].num_tokens] =
      outputs[rows[r].sample_row].token_id;
}

}  // namespace

void ApplySlotUpdates(const SlotTables& tables, const SlotUpload& upload, CudaStream& stream) {
  constexpr int32_t kWordsPerBlock = 4 * kThreads;
  const int parts = std::clamp((upload.largest_count + kWordsPerBlock - 1) / kWordsPerBlock, 1, 64);
  const dim3 grid(static_cast<unsigned>(upload.num_updates), static_cast<unsigned>(parts));
  ApplySlotUpdatesKernel<<<grid, kThreads, 0, stream.handle()>>>(tables, upload);
  CARAVAN_CUDA_CHECK(cudaGetLastError());
}

void BuildStepInputs(const SlotTables& tables, std::span<const StepRow> rows, int32_t vocab_size,
                     const StepInputs& inputs, CudaStream& stream) {
  if (rows.empty()) {
    CARAVAN_CUDA_CHECK(
        cudaMemsetAsync(inputs.query_starts.data(), 0, sizeof(int32_t), stream.handle()));
    return;
  }
  LaunchDependent(BuildStepInputsKernel,
                  {.grid = dim3(static_cast<unsigned>(rows.size())), .threads = kThreads}, stream,
                  tables, rows.data(), vocab_size, inputs);
}

void StoreSampled(std::span<const StepRow> rows, std::span<const SamplingOutput> outputs,
                  const SlotTables& tables, CudaStream& stream) {
  const auto blocks = static_cast<unsigned>((rows.size() + kThreads - 1) / kThreads);
  LaunchDependent(StoreSampledKernel, {.grid = dim3(blocks), .threads = kThreads}, stream,
                  rows.data(), static_cast<int>(rows.size()), outputs.data(), tables);
}

}  // namespace caravan::cuda
