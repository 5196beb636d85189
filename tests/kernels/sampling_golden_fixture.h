// Reads tests/golden/sampling.txt, the NumPy reference of sampling.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/sampling.h"

namespace caravan {

struct SamplingCase {
  std::string name;
  std::vector<float> logits;
  std::vector<TokenBias> biases;
  std::vector<int32_t> history;
  SamplingRow row;                               // without its spans
  std::vector<std::pair<int32_t, double>> kept;  // id, probability; greatest first
  std::vector<int32_t> drawn;                    // at row.position, row.position + 1, …
  std::vector<std::pair<int32_t, double>> raw_logprobs;
  std::vector<std::pair<int32_t, double>> processed_logprobs;

  int32_t vocab() const { return static_cast<int32_t>(logits.size()); }
  // The row with spans over this case's memory.
  SamplingRow Row() const;
};

std::vector<SamplingCase> ReadSamplingCases();

// The integer hash that stands for a model in make_sampling_reference.py.
std::vector<float> HashedLogits(uint64_t seed, double scale, int dropped_bits, int64_t vocab);

}  // namespace caravan
