// Conversion between the element types of weights.
#pragma once

#include <cstdint>

#include "kernels/view.h"

namespace caravan {

// out[i] = in[i], rounded to nearest even where `to` has fewer bits; NaN stays NaN.
void ConvertElements(const void* in, DType from, void* out, DType to, int64_t count);

}  // namespace caravan
