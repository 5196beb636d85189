// A part of a row of logits, in registers, as the model left it and as it is drawn from.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "kernels/sampling.h"

namespace caravan::cuda {

constexpr float kImpossible = -INFINITY;  // the logit of what can't be drawn

// Rows of logits [rows, vocab].
struct LogitRows {
  const float* data;
  int64_t stride;
  int32_t vocab;
  bool aligned;  // each row to 16 bytes

  __device__ const float* row(int64_t r) const { return data + r * stride; }
};

__device__ inline float Sanitize(float logit) {
  return isnan(logit) ? kImpossible : fminf(logit, FLT_MAX);
}

// Of what Sanitize has left.
__device__ inline bool IsFinite(float logit) { return logit != kImpossible && logit != FLT_MAX; }

__device__ inline float Divide(float logit, float temperature) {
  return temperature == 1 ? logit : fminf(logit / temperature, FLT_MAX);
}

// The logits of four neighbouring ids, the first a multiple of 4.
struct alignas(16) Four {
  float logits[4];

  __device__ float max() const {
    return fmaxf(fmaxf(logits[0], logits[1]), fmaxf(logits[2], logits[3]));
  }
};

// A block of kThreads holds kThreads · 4 · kGroups logits from id `begin` on, a multiple of 4; each
// thread kGroups groups of four neighbours, so that loads are wide and four ids share one call of
// Philox.
template <int kThreads, int kGroups>
struct Part {
  static constexpr int kSize = 4 * kGroups;
  static constexpr int kIds = kThreads * kSize;  // of the block

  Four fours[kGroups];
  int32_t begin;

  // Of group g's first value.
  __device__ int32_t GroupId(int g) const {
    return begin + (g * kThreads + static_cast<int>(threadIdx.x)) * 4;
  }
  __device__ int32_t IdOf(int i) const { return GroupId(i / 4) + i % 4; }
  __device__ float value(int i) const { return fours[i / 4].logits[i % 4]; }

  // Ids beyond the vocabulary are impossible.
  __device__ void Load(const LogitRows& logits, const float* row) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int32_t id = GroupId(g);
      Four& four = fours[g];
      if (logits.aligned && id + 4 <= logits.vocab) {
        four = *reinterpret_cast<const Four*>(row + id);
      } else {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          four.logits[c] = id + c < logits.vocab ? row[id + c] : kImpossible;
        }
      }
    }
    ForEach(Sanitize);
  }

  // From logits as the model left them to logits to draw from. `buffer` is shared memory of kIds
  // words, used and synchronized only where the row has biases or penalties.
  __device__ void Process(const SamplingRow& row, float temperature, float* buffer) {
    if (!row.biases.empty()) AddBiases(row, buffer);
    if (!row.history.empty()) Penalize(row, reinterpret_cast<uint32_t*>(buffer));
    if (!row.biases.empty() || !row.history.empty()) ForEach(Sanitize);
    if (temperature != 1) ForEach([&](float logit) { return Divide(logit, temperature); });
  }

 private:
  template <typename Op>
  __device__ void ForEach(const Op& op) {
#pragma unroll
    for (Four& four : fours) {
#pragma unroll
      for (float& logit : four.logits) logit = op(logit);
    }
  }

  // Through shared memory, where a bias finds its logit. The first bias of an id adds all of them,
  // in the list's order: sums are rounded alike everywhere.
  __device__ void AddBiases(const SamplingRow& row, float* buffer) {
    Four* mine = reinterpret_cast<Four*>(buffer) + threadIdx.x;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) mine[g * kThreads] = fours[g];
    __syncthreads();
    const int n = static_cast<int>(row.biases.size());
    const TokenBias* biases = row.biases.data();
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      const int32_t id = biases[i].token_id;
      if (id < begin || id >= begin + kIds) continue;
      bool first = true;
      for (int j = 0; j < i && first; ++j) first = biases[j].token_id != id;
      if (!first) continue;
      float logit = buffer[id - begin];
      for (int j = i; j < n; ++j) {
        if (biases[j].token_id == id) logit += biases[j].bias;
      }
      buffer[id - begin] = logit;
    }
    __syncthreads();
#pragma unroll
    for (int g = 0; g < kGroups; ++g) fours[g] = mine[g * kThreads];
    __syncthreads();
  }

  // Counts the history's tokens of this part in shared memory. Every part of the row reads the
  // whole history, from the cache: less than counts of the whole vocabulary would be.
  __device__ void Penalize(const SamplingRow& row, uint32_t* counts) {
    constexpr uint32_t kInPrompt = 0x80000000u;  // the other bits count what was generated
    uint4* mine = reinterpret_cast<uint4*>(counts) + threadIdx.x;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) mine[g * kThreads] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    const int n = static_cast<int>(row.history.size());
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      const int32_t id = row.history.data()[i];
      if (id < begin || id >= begin + kIds) continue;
      if (i < row.history_prompt) {
        atomicOr(&counts[id - begin], kInPrompt);
      } else {
        atomicAdd(&counts[id - begin], 1u);
      }
    }
    __syncthreads();
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const uint4 four = mine[g * kThreads];
      const uint32_t packed[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (packed[c] == 0) continue;
        float& logit = fours[g].logits[c];
        logit = Penalized(row, logit, packed[c] & ~kInPrompt);
      }
    }
    __syncthreads();
  }

  // Rounded after each operation, as on the CPU.
  __device__ static float Penalized(const SamplingRow& row, float logit, uint32_t count) {
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    logit = __fsub_rn(logit, __fmul_rn(row.frequency_penalty, static_cast<float>(count)));
    return count > 0 ? __fsub_rn(logit, row.presence_penalty) : logit;
  }
};

}  // namespace caravan::cuda
