// Matrices as the tensor memory accelerator of Hopper reads them.
#pragma once

#include <cuda.h>

#include "kernels/view.h"

namespace caravan::cuda {

constexpr int kBoxCols = 64;  // elements of two bytes: 128 bytes, what the swizzle spans

// The map for boxes of `box_rows` x kBoxCols elements, which lie in shared memory as a panel of
// PanelTile<box_rows> does (warpgroup.cuh); what is beyond the matrix becomes zeros there.
// REQUIRES: fp16 or bf16, rows begin on 16 bytes, 1 to 256 box_rows, and a device of sm_90.
CUtensorMap MakeTensorMap(const ConstMatrixView& matrix, int box_rows);

// The same for boxes that take rows from both halves of the matrix: eight of the upper half, the
// eight at the same place of the lower half, the next eight of the upper half, and so on. A box is
// (0, 0, 0, row / 8) of four dimensions. REQUIRES: each half has a multiple of eight rows.
CUtensorMap MakeHalvesTensorMap(const ConstMatrixView& matrix, int box_rows);

}  // namespace caravan::cuda
