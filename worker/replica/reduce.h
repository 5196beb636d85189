// The sum that every rank makes for itself.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/view.h"

namespace caravan {

// out[i] = sources[0][i] + sources[1][i] + …, `count` elements of `dtype` each: added in float32 in
// that order and rounded once, so that an element's bits depend on nothing but the addends. `out`
// may be one of the sources.
void SumInOrder(std::span<const void* const> sources, DType dtype, int64_t count, void* out);

}  // namespace caravan
