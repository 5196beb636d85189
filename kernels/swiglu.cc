#include "kernels/swiglu.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"

namespace caravan {
namespace cuda {  // swiglu.cu
void SwiGlu(ConstMatrixView gate_up, MatrixView out, CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

void SwiGlu(ConstMatrixView gate_up, MatrixView out) {
  const Primitives& primitives = ActivePrimitives();
  const int64_t n = out.cols;
  // An exponential and a division cost about as much as eight multiply-adds.
  ParallelFor(out.rows, 1, out.rows * n * 8, [&](int64_t begin, int64_t end) {
    float* scratch = FloatScratch(ScratchUse::kRow, 2 * n);
    float* product = FloatScratch(ScratchUse::kOutput, n);
    for (int64_t t = begin; t < end; ++t) {
      const float* row = AsFloat(primitives, gate_up.row(t), gate_up.dtype, 2 * n, scratch);
      if (out.dtype == DType::kFloat32) {
        primitives.silu_multiply(row, row + n, static_cast<float*>(out.row(t)), n);
        continue;
      }
      primitives.silu_multiply(row, row + n, product, n);
      primitives.from_float[IndexOf(out.dtype)](product, out.row(t), n);
    }
  });
}

}  // namespace
}  // namespace cpu

void SwiGlu(ConstMatrixView gate_up, MatrixView out, DeviceStream stream) {
  CARAVAN_CHECK_EQ(out.rows, gate_up.rows);
  CARAVAN_CHECK_EQ(2 * out.cols, gate_up.cols);
  if (out.empty()) return;
  CARAVAN_DISPATCH(SwiGlu, stream, gate_up, out);
}

}  // namespace caravan
