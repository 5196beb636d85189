// The gate of LLaMA's feed-forward layer (Shazeer 2020, arXiv:2002.05202).
#pragma once

#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// out[t][i] = silu(gate_up[t][i]) · gate_up[t][intermediate + i], silu(z) = z / (1 + e^-z), in
// float32, rounded once.
void SwiGlu(ConstMatrixView gate_up,  // [tokens, 2 · intermediate], gate first
            MatrixView out,           // [tokens, intermediate]; not aliased with gate_up
            DeviceStream stream);

}  // namespace caravan
