// The algorithms that cuBLASLt was found to be fastest with. Plain C++.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>

#include "kernels/view.h"

namespace caravan {

// What an algorithm is chosen for. Products of nearly as many tokens share one, so that tokens is
// the largest number of such a group.
struct CublasPlanKey {
  int64_t tokens = 0;
  int64_t features = 0;
  int64_t k = 0;
  int64_t x_stride = 0;
  int64_t out_stride = 0;
  DType input = DType::kFloat32;
  DType output = DType::kFloat32;
  bool has_bias = false;

  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes the comparison's zero for a pointer
  auto operator<=>(const CublasPlanKey&) const = default;
};

struct CublasPlan {
  bool exists = false;                     // cuBLASLt has an algorithm for the key
  std::array<uint64_t, 8> algorithm = {};  // cublasLtMatmulAlgo_t
};

using CublasPlans = std::map<CublasPlanKey, CublasPlan>;

}  // namespace caravan
