#include "kernels/device/any_dtype.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/matmul/paths.h"

namespace caravan::cuda {
namespace {

constexpr int kWarps = 4;  // of a block
constexpr int kBatch = 4;  // vectors of a lane that are loaded at once; two batches are in flight
constexpr int kLanes = 32;

struct VectorArgs {
  const void* weight;
  const void* x;
  int64_t x_stride;  // in vectors
  const void* bias;  // or null
  DType bias_dtype;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  int features;
  int vectors;  // 16 bytes each, of a row of weights
};

// 16 bytes that are read once: past the L1 cache. Issued where it stands, so that weights can be
// under way before the predecessor's end.
__device__ uint4 LoadStreaming(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

template <typename T>
__device__ void Unpack(uint4 packed, float (&values)[kVector<T>]) {
  const auto pack = *reinterpret_cast<const Pack<T, kVector<T>>*>(&packed);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] = ToFloat(pack.element[i]);
}

// Vectors lane, lane + 32, … of the batch; zeros behind the end of the row.
__device__ void LoadBatch(const uint4* row, int begin, int vectors, uint4 (&batch)[kBatch]) {
#pragma unroll
  for (int u = 0; u < kBatch; ++u) {
    const int v = begin + u * kLanes;
    batch[u] = v < vectors ? LoadStreaming(row + v) : make_uint4(0, 0, 0, 0);
  }
}

// sums[t] += weights · x[t] over the batch, even and odd elements in sums of their own.
template <typename T, int kTokens>
__device__ void MultiplyBatch(const VectorArgs& args, int begin, const uint4 (&weights)[kBatch],
                              float (&sums)[kTokens][2]) {
  const auto* x = static_cast<const uint4*>(args.x);
#pragma unroll
  for (int u = 0; u < kBatch; ++u) {
    const int v = begin + u * kLanes;
    float w[kVector<T>];
    Unpack<T>(weights[u], w);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      float values[kVector<T>];
      Unpack<T>(v < args.vectors ? x[t * args.x_stride + v] : make_uint4(0, 0, 0, 0), values);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) sums[t][i % 2] += w[i] * values[i];
    }
  }
}

// One warp per output feature, for all tokens: the weights stream through the registers once, and
// enough warps fit on a multiprocessor to keep the memory busy. x comes out of the L1 cache.
template <typename T, int kTokens>
__global__ void __launch_bounds__(kWarps* kLanes, kTokens == 1 ? 8 : 1)
    VectorKernel(VectorArgs args) {
  const int lane = threadIdx.x % kLanes;
  const int feature = blockIdx.x * kWarps + threadIdx.x / kLanes;
  ReleaseSuccessor();
  if (feature >= args.features) return;
  const uint4* row = static_cast<const uint4*>(args.weight) + int64_t{feature} * args.vectors;
  uint4 batch[kBatch];
  LoadBatch(row, lane, args.vectors, batch);
  WaitForPredecessor();
  float sums[kTokens][2] = {};
  for (int begin = lane; begin < args.vectors + lane; begin += kBatch * kLanes) {
    uint4 next[kBatch];
    LoadBatch(row, begin + kBatch * kLanes, args.vectors, next);
    MultiplyBatch<T, kTokens>(args, begin, batch, sums);
#pragma unroll
    for (int u = 0; u < kBatch; ++u) batch[u] = next[u];
  }
  const float bias = args.bias == nullptr ? 0.0f : LoadElement(args.bias, args.bias_dtype, feature);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    float sum = sums[t][0] + sums[t][1];
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffff, sum, offset);
    }
    if (lane == t) {
      StoreElement(args.out, args.out_dtype, t * args.out_stride + feature, sum + bias);
    }
  }
}

template <typename T>
void Launch(const MatmulArgs& args, CudaStream& stream) {
  const VectorArgs kernel_args = {.weight = args.weight.data,
                                  .x = args.x.data,
                                  .x_stride = args.x.row_stride / kVector<T>,
                                  .bias = args.bias.data,
                                  .bias_dtype = args.bias.dtype,
                                  .out = args.out.data,
                                  .out_dtype = args.out.dtype,
                                  .out_stride = args.out.row_stride,
                                  .features = static_cast<int>(args.out.cols),
                                  .vectors = static_cast<int>(args.x.cols / kVector<T>)};
  const LaunchShape shape = {
      .grid = dim3(static_cast<unsigned>((args.out.cols + kWarps - 1) / kWarps)),
      .threads = kWarps * kLanes};
  if (args.x.rows == 1) {
    LaunchDependent(VectorKernel<T, 1>, shape, stream, kernel_args);
  } else {
    LaunchDependent(VectorKernel<T, 2>, shape, stream, kernel_args);
  }
}

}  // namespace

void MultiplyVector(const MatmulArgs& args, CudaStream& stream) {
  CARAVAN_CHECK(args.x.rows <= kMaxVectorTokens, args.x.rows, " tokens");
  WithType(args.x.dtype, [&](auto tag) { Launch<typename decltype(tag)::type>(args, stream); });
}

}  // namespace caravan::cuda
