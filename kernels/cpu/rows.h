// Rows of any dtype as float32, and shape checks, for the CPU twins.
#pragma once

#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/primitives.h"
#include "kernels/cpu/scratch.h"
#include "kernels/view.h"

namespace caravan::cpu {

inline int IndexOf(DType dtype) { return static_cast<int>(dtype); }

// The row itself where it is float32, else a converted copy in `scratch`.
inline const float* AsFloat(const Primitives& primitives, const void* row, DType dtype, int64_t n,
                            float* scratch) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(row);
  primitives.to_float[IndexOf(dtype)](row, scratch, n);
  return scratch;
}

// A whole vector, in this thread's scratch for weights where it must be converted.
inline const float* AsFloat(const Primitives& primitives, ConstVectorView vector) {
  if (vector.empty()) return nullptr;
  return AsFloat(primitives, vector.data, vector.dtype, vector.size,
                 FloatScratch(ScratchUse::kWeight, vector.size));
}

}  // namespace caravan::cpu
