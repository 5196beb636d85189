// cuBLASLt, loaded when it is first needed.
#pragma once

#include "kernels/device/dynamic_library.h"

namespace caravan {

// The functions of <cublasLt.h> that this project calls are calls into this library.
const DynamicLibrary& CublasLibrary();

}  // namespace caravan
