#include "kernels/device/tensor_map.h"

#include <cuda_runtime.h>

#include "kernels/device/cuda_check.h"

namespace caravan::cuda {
namespace {

using EncodeFunction = decltype(cuTensorMapEncodeTiled);

// The driver's function, without linking its library, which a machine without a GPU has not.
EncodeFunction* FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  CARAVAN_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                      cudaEnableDefault, &result));
#else
  CARAVAN_CUDA_CHECK(
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result));
#endif
  CARAVAN_CHECK(result == cudaDriverEntryPointSuccess && function != nullptr,
                "the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<EncodeFunction*>(function);
}

// Sizes of dimensions and of boxes, and the elements from one to the next in dimensions 1 and up.
struct Boxes {
  int dimensions;
  int64_t sizes[4];
  int64_t strides[3];
  uint32_t box[4];
};

CUtensorMap Encode(const ConstMatrixView& matrix, const Boxes& boxes) {
  static EncodeFunction* const encode = FindEncode();
  const CUtensorMapDataType type = matrix.dtype == DType::kFloat16
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  cuuint64_t sizes[4] = {};
  cuuint64_t stride_bytes[3] = {};
  for (int i = 0; i < boxes.dimensions; ++i) sizes[i] = static_cast<cuuint64_t>(boxes.sizes[i]);
  for (int i = 0; i + 1 < boxes.dimensions; ++i) {
    stride_bytes[i] = static_cast<cuuint64_t>(2 * boxes.strides[i]);
  }
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  CUtensorMap map;
  // The driver reads the matrix's address, never what lies there.
  const CUresult result = encode(
      &map, type, static_cast<cuuint32_t>(boxes.dimensions), const_cast<void*>(matrix.data), sizes,
      stride_bytes, boxes.box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CARAVAN_CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: ", static_cast<int>(result),
                " for ", matrix.rows, " x ", matrix.cols, ", stride ", matrix.row_stride);
  return map;
}

}  // namespace

CUtensorMap MakeTensorMap(const ConstMatrixView& matrix, int box_rows) {
  return Encode(matrix, {.dimensions = 2,
                         .sizes = {matrix.cols, matrix.rows},
                         .strides = {matrix.row_stride},
                         .box = {kBoxCols, static_cast<uint32_t>(box_rows)}});
}

CUtensorMap MakeHalvesTensorMap(const ConstMatrixView& matrix, int box_rows) {
  const int64_t half = matrix.rows / 2;
  CARAVAN_CHECK(matrix.rows % 16 == 0 && box_rows % 16 == 0, matrix.rows, " rows in two halves");
  return Encode(matrix,
                {.dimensions = 4,
                 .sizes = {matrix.cols, 8, 2, half / 8},
                 .strides = {matrix.row_stride, half * matrix.row_stride, 8 * matrix.row_stride},
                 .box = {kBoxCols, 8, 2, static_cast<uint32_t>(box_rows / 16)}});
}

}  // namespace caravan::cuda
