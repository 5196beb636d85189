// Root-mean-square layer norm (Zhang and Sennrich 2019, arXiv:1910.07467), as LLaMA uses it.
#pragma once

#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// out[t] = x[t] / sqrt(mean(x[t]²) + epsilon) · weight, for each row t, in float32, rounded once.
// `out` may be `x`.
void RmsNorm(ConstMatrixView x,       // [tokens, hidden]
             ConstVectorView weight,  // [hidden]
             float epsilon,
             MatrixView out,  // [tokens, hidden]
             DeviceStream stream);

// residual[t] += delta[t]; out[t] = RmsNorm(residual[t]). The sum is rounded to residual's dtype
// before the norm, so that norm and residual stream see one value. `out` may be `delta`, not
// `residual`.
void AddRmsNorm(ConstMatrixView delta,   // [tokens, hidden], any dtype
                ConstVectorView weight,  // [hidden]
                float epsilon,
                MatrixView residual,  // [tokens, hidden]
                MatrixView out,       // [tokens, hidden]
                DeviceStream stream);

}  // namespace caravan
