#include "kernels/cpu/scratch.h"

#include <cstdlib>

#include "kernels/check.h"

namespace caravan::cpu {
namespace {

struct Buffers {
  Buffers() = default;
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers() {
    for (void* data : data) std::free(data);
  }
  void* data[static_cast<int>(ScratchUse::kCount)] = {};
  int64_t capacity[static_cast<int>(ScratchUse::kCount)] = {};
};

}  // namespace

void* Scratch(ScratchUse use, int64_t bytes) {
  thread_local Buffers buffers;
  const int slot = static_cast<int>(use);
  if (bytes > buffers.capacity[slot]) {
    // A quarter more than asked, so that slowly growing requests don't allocate each time.
    const int64_t capacity = (bytes + bytes / 4 + 63) / 64 * 64;
    std::free(buffers.data[slot]);
    buffers.data[slot] = std::aligned_alloc(64, static_cast<size_t>(capacity));
    CARAVAN_CHECK(buffers.data[slot] != nullptr, "out of memory: ", capacity, " bytes");
    buffers.capacity[slot] = capacity;
  }
  return buffers.data[slot];
}

}  // namespace caravan::cpu
