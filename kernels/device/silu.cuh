// The gate of SwiGLU.
#pragma once

namespace caravan::cuda {

// silu(gate) · up, silu(z) = z / (1 + e^-z).
__device__ inline float SiluMultiply(float gate, float up) {
  return gate / (1 + __expf(-gate)) * up;
}

}  // namespace caravan::cuda
