#include <algorithm>
#include <vector>

#include "kernels/device/cuda_check.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/elements.cuh"
#include "kernels/dummy_fill.h"
#include "kernels/philox.h"

namespace caravan::cuda {
namespace {

constexpr int kThreads = 256;

// One thread per draw, which gives eight elements of a row: the draw costs more than the stores,
// so nothing is drawn twice.
template <typename T>
__global__ void FillDummyKernel(DummySource source, const float* quantiles, T* out, int64_t cols,
                                int64_t out_stride) {
  const int64_t row = blockIdx.y;
  const int64_t first = source.first + row * source.stride;
  const int64_t draw = first / 8 + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t begin = draw * 8 - first;  // column of the draw's first element, < 0 in mid-draw
  if (begin >= cols) return;
  const PhiloxWords words =
      Philox4x32(source.key, {{static_cast<uint32_t>(draw),
                               static_cast<uint32_t>(static_cast<uint64_t>(draw) >> 32), 0, 0}});
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t index = (words.word[i / 2] >> (16 * (i % 2))) & 0xffff;
    const int64_t column = begin + i;
    if (column >= 0 && column < cols) {
      out[row * out_stride + column] = FromFloat<T>(quantiles[index]);
    }
  }
}

template <typename T>
void Launch(const DummySource& source, const float* quantiles, MatrixView out,
            cudaStream_t stream) {
  constexpr int64_t kMaxRows = 65535;  // of a grid's y
  const int64_t draws = out.cols / 8 + 2;
  const auto blocks = static_cast<unsigned>((draws + kThreads - 1) / kThreads);
  for (int64_t row = 0; row < out.rows; row += kMaxRows) {
    const int64_t rows = std::min(kMaxRows, out.rows - row);
    const DummySource part = {source.key, source.first + row * source.stride, source.stride};
    FillDummyKernel<T><<<dim3(blocks, static_cast<unsigned>(rows)), kThreads, 0, stream>>>(
        part, quantiles, static_cast<T*>(out.row(row)), out.cols, out.row_stride);
    CARAVAN_CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace

void FillDummy(const DummySource& source, const std::vector<float>& quantiles, MatrixView out,
               CudaStream& stream) {
  const size_t bytes = quantiles.size() * sizeof(float);
  CARAVAN_CHECK(stream.workspace_bytes() >= static_cast<int64_t>(bytes), stream.workspace_bytes(),
                " bytes of workspace, the table has ", bytes);
  auto* table = static_cast<float*>(stream.workspace());
  CARAVAN_CUDA_CHECK(
      cudaMemcpyAsync(table, quantiles.data(), bytes, cudaMemcpyHostToDevice, stream.handle()));
  WithType(out.dtype, [&](auto tag) {
    Launch<typename decltype(tag)::type>(source, table, out, stream.handle());
  });
}

}  // namespace caravan::cuda
