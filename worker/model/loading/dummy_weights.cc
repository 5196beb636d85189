#include "worker/model/loading/dummy_weights.h"

#include <cstddef>

#include "kernels/dummy_fill.h"
#include "worker/model/number_format.h"

namespace caravan {

uint64_t DummyKey(std::string_view tensor_name) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const unsigned char c : tensor_name) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

void FillDummy(uint64_t key, int64_t first, DType dtype, int64_t count, void* target) {
  FillDummy({.key = key, .first = first}, DenseMatrix(target, dtype, 1, count),
            DeviceStream::Cpu());
}

void FillOnes(DType dtype, int64_t count, void* target) {
  const float one = 1;
  for (int64_t i = 0; i < count; ++i) {
    ConvertElements(&one, DType::kFloat32, static_cast<std::byte*>(target) + i * SizeOf(dtype),
                    dtype, 1);
  }
}

}  // namespace caravan
