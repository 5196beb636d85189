// Random weights that need no file, on any device.
#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// The part of an endless random tensor that a fill takes.
struct DummySource {
  uint64_t key = 0;    // of the tensor
  int64_t first = 0;   // element at out[0][0], ≥ 0
  int64_t stride = 0;  // elements from one row of the whole tensor to the next
};

// out[r][c] = element first + r · stride + c of the tensor `key`: normal, mean 0, deviation 0.02,
// rounded to out's dtype. Element i takes 16 bits of draw i / 8 of Philox 4x32-10, and their
// quantile from one table, so every device gives equal bits. On the CPU in the calling thread alone
// (a loader brings its own threads). For loading: the CUDA twin copies the table into the stream's
// workspace, so it can't be captured.
void FillDummy(const DummySource& source, MatrixView out, DeviceStream stream);

}  // namespace caravan
