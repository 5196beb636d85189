// Linear layers.
#pragma once

#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// out[t][n] = Σ_k x[t][k] · weight[n][k] + bias[n], accumulated in float32, rounded once to out's
// dtype. On the CPU the bits of a row of `out` depend on that row of `x` and on `weight` alone,
// never on the number of rows.
void Matmul(ConstMatrixView x,         // [tokens, in_features]
            const WeightView& weight,  // [out_features, in_features]
            ConstVectorView bias,      // [out_features], or empty
            MatrixView out,            // [tokens, out_features], any dtype; not aliased with x
            DeviceStream stream);

}  // namespace caravan
