// Parts of a checkpoint's tensors, wherever and however they lie, as dense rows of another type.
#pragma once

#include <cstddef>
#include <cstdint>

#include "worker/model/files/tensor_info.h"
#include "worker/model/sharding.h"

namespace caravan {

// to[r, c] = tensor[rows.begin + r, cols.begin + c], converted. A vector is a matrix of one row.
// The tensor's dtype() is known and the slices lie within it.
void CopyElements(const TensorInfo& tensor, Slice rows, Slice cols, DType to_dtype, std::byte* to);

// Tells the system that CopyElements of these slices comes soon.
void PrefetchElements(const TensorInfo& tensor, Slice rows, Slice cols);

}  // namespace caravan
