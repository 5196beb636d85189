// Random weights that need no file: element i of a tensor depends on the tensor's name and on i.
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/view.h"

namespace caravan {

uint64_t DummyKey(std::string_view tensor_name);

// target[j] = element first + j of the tensor `key`: those of kernels/dummy_fill.h, which has
// the same for devices.
void FillDummy(uint64_t key, int64_t first, DType dtype, int64_t count, void* target);

void FillOnes(DType dtype, int64_t count, void* target);

}  // namespace caravan
