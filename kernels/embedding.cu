#include <algorithm>

#include "kernels/device/any_dtype.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/embedding.h"

namespace caravan::cuda {
namespace {

constexpr int kThreads = 256;

struct RowArgs {
  ConstMatrixView table;
  const int32_t* indices;
  int32_t begin;  // index of the table's first row
  MatrixView out;
};

// The table's row for row `row` of out, or -1.
__device__ int64_t SourceRow(const RowArgs& args, int64_t row) {
  const int64_t source = int64_t{args.indices[row]} - args.begin;
  return source >= 0 && source < args.table.rows ? source : -1;
}

// One block per row and part of it, in units of up to 16 bytes: only memory is moved, bit by bit.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) CopyRowsKernel(RowArgs args, int64_t row_units) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const int64_t row = blockIdx.x;
  const int64_t source = SourceRow(args, row);
  const int64_t unit = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (unit >= row_units) return;
  const int64_t bytes = SizeOf(args.out.dtype);
  const auto* from = reinterpret_cast<const Unit*>(static_cast<const char*>(args.table.data) +
                                                   source * args.table.row_stride * bytes);
  auto* to = reinterpret_cast<Unit*>(static_cast<char*>(args.out.data) +
                                     row * args.out.row_stride * bytes);
  to[unit] = source < 0 ? Unit{} : from[unit];
}

// One block per row and part of it, an element a thread: conversions are rare.
__global__ void __launch_bounds__(kThreads) ConvertRowsKernel(RowArgs args) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const int64_t row = blockIdx.x;
  const int64_t source = SourceRow(args, row);
  const int64_t c = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (c >= args.out.cols) return;
  const float value = source < 0 ? 0.0f
                                 : LoadElement(args.table.data, args.table.dtype,
                                               source * args.table.row_stride + c);
  StoreElement(args.out.data, args.out.dtype, row * args.out.row_stride + c, value);
}

LaunchShape ShapeFor(int64_t rows, int64_t units) {
  return {.grid = dim3(static_cast<unsigned>(rows),
                       static_cast<unsigned>((units + kThreads - 1) / kThreads)),
          .threads = kThreads};
}

template <typename Unit>
void LaunchCopy(const RowArgs& args, const CudaStream& stream) {
  const int64_t units = args.out.cols * SizeOf(args.out.dtype) / int64_t{sizeof(Unit)};
  LaunchDependent(CopyRowsKernel<Unit>, ShapeFor(args.out.rows, units), stream, args, units);
}

void CopyRows(const RowArgs& args, const CudaStream& stream) {
  const int64_t bytes = SizeOf(args.out.dtype);
  const auto divides = [&](int64_t unit) {
    return reinterpret_cast<uintptr_t>(args.table.data) % unit == 0 &&
           reinterpret_cast<uintptr_t>(args.out.data) % unit == 0 &&
           args.table.row_stride * bytes % unit == 0 && args.out.row_stride * bytes % unit == 0 &&
           args.out.cols * bytes % unit == 0;
  };
  if (divides(sizeof(uint4))) {
    LaunchCopy<uint4>(args, stream);
  } else if (divides(sizeof(uint32_t))) {
    LaunchCopy<uint32_t>(args, stream);
  } else {
    LaunchCopy<uint16_t>(args, stream);
  }
}

}  // namespace

void Embedding(std::span<const int32_t> token_ids, ConstMatrixView table, int32_t vocab_begin,
               MatrixView out, CudaStream& stream) {
  const RowArgs args = {table, token_ids.data(), vocab_begin, out};
  if (table.dtype == out.dtype) return CopyRows(args, stream);
  LaunchDependent(ConvertRowsKernel, ShapeFor(out.rows, out.cols), stream, args);
}

// A row that is not there gives zeros: the device can't refuse it, as the CPU does.
void GatherRows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView out,
                CudaStream& stream) {
  CopyRows({x, rows.data(), 0, out}, stream);
}

}  // namespace caravan::cuda
