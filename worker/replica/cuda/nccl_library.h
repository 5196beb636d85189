// NCCL, loaded when ranks on GPUs first need it.
#pragma once

#include "kernels/device/dynamic_library.h"

namespace caravan {

// The functions of <nccl.h> that this project calls are calls into this library.
const DynamicLibrary& NcclLibrary();

}  // namespace caravan
