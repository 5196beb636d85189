// Which twin of an operator runs. For the operators' .cc files.
#pragma once

#include "kernels/check.h"
#include "kernels/device_stream.h"

// CARAVAN_DISPATCH(Op, stream, arguments…) calls caravan::cpu::Op(arguments…) or
// caravan::cuda::Op(arguments…, stream.cuda()).
#ifdef CARAVAN_HAS_CUDA
#define CARAVAN_DISPATCH(op, stream, ...)              \
  do {                                                 \
    if ((stream).device() == Device::kCpu) {           \
      ::caravan::cpu::op(__VA_ARGS__);                 \
    } else {                                           \
      ::caravan::cuda::op(__VA_ARGS__, stream.cuda()); \
    }                                                  \
  } while (false)
#else
#define CARAVAN_DISPATCH(op, stream, ...)                \
  do {                                                   \
    CARAVAN_CHECK((stream).device() == Device::kCpu, #op \
                  " on a CUDA stream, but this build "   \
                  "has the CPU backend alone");          \
    ::caravan::cpu::op(__VA_ARGS__);                     \
  } while (false)
#endif
