#ifdef __x86_64__

#include <immintrin.h>

#include "kernels/cpu/primitives.h"

namespace caravan::cpu {
namespace {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

#include "kernels/cpu/vector_avx512.inc"
// The vector layer comes first: the primitives are written over it.
#include "kernels/cpu/primitives.inc"

}  // namespace

const Primitives kAvx512Primitives = kTable;

}  // namespace caravan::cpu

#endif  // __x86_64__
