// Linear layers.
#pragma once

#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// out[t][n] = Σ_k x[t][k] · weight[n][k] + bias[n], accumulated in float32, rounded once to out's
// dtype. On the CPU the bits of a row of `out` depend on that row of `x` and on `weight` alone,
// never on the number of rows; on CUDA so where the stream is batch invariant.
void Matmul(ConstMatrixView x,         // [tokens, in_features]
            const WeightView& weight,  // [out_features, in_features]
            ConstVectorView bias,      // [out_features], or empty
            MatrixView out,            // [tokens, out_features], any dtype; not aliased with x
            DeviceStream stream);

struct GatedProduct {
  ConstMatrixView x;     // [tokens, in_features]
  WeightView weight;     // [2 · intermediate, in_features], gate first
  ConstVectorView bias;  // [2 · intermediate], or empty
  MatrixView gate_up;    // [tokens, 2 · intermediate], scratch: holds anything afterwards
  MatrixView out;        // [tokens, intermediate]; aliased with none of the others
};

// out = SwiGlu(Matmul(x, weight, bias)), where the product is rounded to the dtype of gate_up: as
// the two operators one after the other (kernels/swiglu.h).
void MatmulSwiGlu(const GatedProduct& product, DeviceStream stream);

// A kind of product that will come.
struct MatmulShape {
  int64_t tokens = 0;
  DType input = DType::kFloat32;
  DType output = DType::kFloat32;
  bool has_bias = false;
};

// Chooses the algorithm for products of this shape and kind with `weight`, so that a later Matmul,
// under graph capture for example, finds it chosen. Every later choice for the shape is the same,
// with this call or without. Nothing is enqueued; on the CPU there is nothing to do.
void PrepareMatmul(const MatmulShape& shape, const WeightView& weight, DeviceStream stream);

}  // namespace caravan
