// Samples on any target rows whose spans point to host memory.
#pragma once

#include <vector>

#include "kernels/sampling.h"
#include "tests/kernels/op_fixture.h"
#include "tests/kernels/target_fixture.h"

namespace caravan {

// One token for each row of `logits`, which come back as Sample left them.
std::vector<SamplingOutput> SampleRows(const Target& target, Tensor& logits, int32_t vocab,
                                       const std::vector<SamplingRow>& rows);

// The same for rows that share their logits.
std::vector<SamplingOutput> SampleRows(const Target& target, const std::vector<float>& logits,
                                       const std::vector<SamplingRow>& rows);

SamplingOutput SampleOne(const Target& target, const std::vector<float>& logits,
                         const SamplingRow& row);

}  // namespace caravan
