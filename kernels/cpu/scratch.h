// Working memory of the CPU twins: one buffer for each thread and use, which grows to the largest
// size asked for and stays.
#pragma once

#include <cstdint>

namespace caravan::cpu {

enum class ScratchUse : uint8_t {
  kInput,   // rows in float32, shared with the threads of a parallel region
  kWeight,  // a vector in float32, likewise
  kItems,   // lists of work, likewise
  kRow,     // one thread's rows
  kOther,
  kOutput,
  kCount,
};

// At least `bytes` bytes, aligned to 64; valid until the same thread asks again for the same use.
void* Scratch(ScratchUse use, int64_t bytes);
inline float* FloatScratch(ScratchUse use, int64_t floats) {
  return static_cast<float*>(Scratch(use, floats * static_cast<int64_t>(sizeof(float))));
}

}  // namespace caravan::cpu
