// PeerAllReduceAddRmsNorm: one launch between a row-parallel matmul and the next matmul.
#include <algorithm>

#include "kernels/device/cuda_check.h"
#include "kernels/device/peer.cuh"
#include "kernels/peer_all_reduce.h"

namespace caravan::cuda {
namespace {

constexpr int kMostHidden = 8192;  // more would not stay in registers

// The packs of many ranks take registers, so a block has fewer threads there.
template <int kRanks>
constexpr int kMostThreads = kRanks <= 4 ? 1024 : 512;

// A thread's packs of a row.
template <typename P, int kRanks>
constexpr int kMostPacks = kMostHidden / kMostThreads<kRanks> / kVector<P>;

template <typename P, typename R>
struct NormArguments {
  const P* partial;
  const R* weight;
  R* residual;
  R* out;
  int64_t partial_stride, residual_stride, out_stride;  // of rows, in elements
  int64_t rows;
  int packs;  // of a row, of kVector<P> elements each
  int hidden;
  float epsilon;
};

// As many elements of R as a pack has of P.
template <typename P, typename R>
using Addend = Pack<R, kVector<P>>;

template <typename P, typename R>
__device__ Addend<P, R> LoadAddend(const R* row, int pack) {
  return *reinterpret_cast<const Addend<P, R>*>(row + pack * kVector<P>);
}

template <typename P, typename R>
__device__ void StoreAddend(R* row, int pack, const Addend<P, R>& x) {
  *reinterpret_cast<Addend<P, R>*>(row + pack * kVector<P>) = x;
}

// The sum of x over the block, equal in all threads: by lanes, then by warps, in a fixed order.
// Two calls are apart by a barrier.
__device__ float SumOfBlock(float x) {
  __shared__ float of_warp[32];
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffU, x, lanes);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  x = lane < static_cast<int>(blockDim.x / 32) ? of_warp[lane] : 0;
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffU, x, lanes);
  return x;
}

// residual += addends, rounded to R: what the norm and the residual stream see. Returns the sum of
// its squares.
template <typename P, typename R, int kRanks>
__device__ float AddToResidual(const PeerView& peers, const uint4 (&addends)[kRanks],
                               Addend<P, R>& residual) {
  float sum[kVector<P>];
  SumInOrder<P, kRanks>(peers, addends, sum);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVector<P>; ++i) {
    residual.element[i] = FromFloat<R>(ToFloat(residual.element[i]) + sum[i]);
    const float x = ToFloat(residual.element[i]);
    squares += x * x;
  }
  return squares;
}

template <typename P, typename R>
__device__ Addend<P, R> Scaled(const Addend<P, R>& x, float factor, const Addend<P, R>& weight) {
  Addend<P, R> result;
#pragma unroll
  for (int i = 0; i < kVector<P>; ++i) {
    result.element[i] = FromFloat<R>(ToFloat(x.element[i]) * factor * ToFloat(weight.element[i]));
  }
  return result;
}

// This thread's packs of a row.
template <typename P, typename R, int kPacks>
__device__ void LoadRow(const R* row, int packs, Addend<P, R> (&x)[kPacks]) {
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int pack = static_cast<int>(threadIdx.x + k * blockDim.x);
    if (pack < packs) x[k] = LoadAddend<P, R>(row, pack);
  }
}

// One block per row, one thread per 16 bytes of it (or every blockDim.x-th): the row is summed
// everywhere and never leaves the registers before it is normalized. Which thread adds which
// squares depends on hidden alone. The weight comes before the predecessor has ended, and a row is
// on its way to the peers before the last one is waited for.
template <typename P, typename R, int kRanks>
__global__ void __launch_bounds__(kMostThreads<kRanks>)
    SumAddRmsNormKernel(const __grid_constant__ PeerView peers, const NormArguments<P, R> a) {
  constexpr int kPacks = kMostPacks<P, kRanks>;
  const int threads = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  ReleaseSuccessor(peers);
  Addend<P, R> weight[kPacks];
  LoadRow<P, R>(a.weight, a.packs, weight);
  WaitForPredecessor();
  const auto addend_of = [&](int64_t row, int pack) {
    return Sendable(reinterpret_cast<const uint4*>(a.partial + row * a.partial_stride)[pack]);
  };
  // Its latency and that of the counter are one.
  uint4 first = {};
  if (thread < a.packs) first = addend_of(blockIdx.x, thread);
  const Turn turn = BeginTurn(peers);
  if (turn.aborted) return;
  const int64_t slot = a.rows * a.packs;
  const auto push = [&](int64_t row, int pack, uint4 addend) {
    PushToAll<kRanks>(peers, turn, peers.rank * slot + row * a.packs + pack, addend);
  };
  if (thread < a.packs) push(blockIdx.x, thread, first);
  for (int pack = thread + threads; pack < a.packs; pack += threads) {
    push(blockIdx.x, pack, addend_of(blockIdx.x, pack));
  }
  uint4* const slots = RegionOf(peers, turn, peers.rank);
  bool waits = true;  // until the group is given up: then the rest is nonsense, but ends
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    R* const residual = a.residual + row * a.residual_stride;
    Addend<P, R> sums[kPacks];
    LoadRow<P, R>(residual, a.packs, sums);
    if (const int64_t next = row + gridDim.x; next < a.rows) {
      for (int pack = thread; pack < a.packs; pack += threads) {
        push(next, pack, addend_of(next, pack));
      }
    }
    float squares = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int pack = thread + k * threads;
      if (pack >= a.packs) break;
      const uint4 own = addend_of(row, pack);
      uint4 addends[kRanks];
#pragma unroll
      for (int r = 0; r < kRanks; ++r) addends[r] = own;
      waits = waits && ReceiveFromAll<kRanks>(peers, slots + row * a.packs + pack, slot, addends);
      squares += AddToResidual<P, R, kRanks>(peers, addends, sums[k]);
      StoreAddend<P, R>(residual, pack, sums[k]);
    }
    const float mean = SumOfBlock(squares) / static_cast<float>(a.hidden);
    const float factor = 1.0f / sqrtf(mean + a.epsilon);
    R* const out = a.out + row * a.out_stride;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int pack = thread + k * threads;
      if (pack < a.packs) StoreAddend<P, R>(out, pack, Scaled<P, R>(sums[k], factor, weight[k]));
    }
    __syncthreads();  // SumOfBlock's memory is free again
  }
}

int ThreadsFor(int packs, int most_threads) {
  const int per_thread = (packs + most_threads - 1) / most_threads;
  return (packs + 32 * per_thread - 1) / (32 * per_thread) * 32;
}

template <typename P, typename R, int kRanks>
void Launch(const PeerView& peers, const PeerReducedNorm& norm, const CudaStream& stream) {
  const int64_t row_bytes = norm.partial.cols * static_cast<int64_t>(sizeof(P));
  const int64_t step = peers.region_bytes / peers.world_size / row_bytes;
  CARAVAN_CHECK(step > 0, "a row of ", row_bytes, " bytes between ", peers.world_size, " ranks");
  for (int64_t first = 0; first < norm.partial.rows; first += step) {
    NormArguments<P, R> a;
    a.partial = static_cast<const P*>(norm.partial.row(first));
    a.weight = static_cast<const R*>(norm.weight.data);
    a.residual = static_cast<R*>(norm.residual.row(first));
    a.out = static_cast<R*>(norm.out.row(first));
    a.partial_stride = norm.partial.row_stride;
    a.residual_stride = norm.residual.row_stride;
    a.out_stride = norm.out.row_stride;
    a.rows = std::min(step, norm.partial.rows - first);
    a.packs = static_cast<int>(norm.partial.cols / kVector<P>);
    a.hidden = static_cast<int>(norm.partial.cols);
    a.epsilon = norm.epsilon;
    const int threads = ThreadsFor(a.packs, kMostThreads<kRanks>);
    // Never more than run at once (16 blocks do so on a multiprocessor of any architecture): a
    // block that waits for a peer's keeps its place.
    const int64_t at_once =
        int64_t{peers.max_blocks} * std::min(16, kMostThreads<kRanks> / threads);
    const auto blocks = static_cast<unsigned int>(std::min(a.rows, at_once));
    LaunchPeer(SumAddRmsNormKernel<P, R, kRanks>, {blocks, threads}, stream, peers, a);
  }
}

// Calls body(TypeTag<P>(), TypeTag<R>()) for what CanFuse lets through.
template <typename Body>
void WithTypes(DType partial, DType residual, const Body& body) {
  WithType(residual, [&](auto r) {
    if (partial == residual) {
      body(r, r);
    } else {
      body(TypeTag<float>(), r);
    }
  });
}

// Rows of whole packs, each at a multiple of 16 bytes.
bool IsVectorized(ConstMatrixView x) {
  const int64_t vector = 16 / SizeOf(x.dtype);
  return IsAligned16(x.data) && x.cols % vector == 0 && x.row_stride % vector == 0;
}

}  // namespace

bool CanFuse(const PeerReducedNorm& norm) {
  const DType dtype = norm.residual.dtype;
  const bool dtypes = norm.out.dtype == dtype && norm.weight.dtype == dtype &&
                      (norm.partial.dtype == dtype || norm.partial.dtype == DType::kFloat32);
  return dtypes && norm.partial.cols <= kMostHidden && IsVectorized(norm.partial) &&
         IsVectorized(norm.residual) && IsVectorized(norm.out) && IsAligned16(norm.weight.data);
}

bool ShouldFuse(const PeerView& peers, const PeerReducedNorm& norm, const CudaStream& stream) {
  if (!CanFuse(norm)) return false;
  if (stream.batch_invariant() || peers.world_size == 2) return true;
  // Larger ones are summed by parts.
  const int64_t bytes = norm.partial.rows * norm.partial.cols * SizeOf(norm.partial.dtype);
  return bytes <= MostBytesSummedEverywhere(peers.world_size);
}

void PeerAllReduceAddRmsNorm(const PeerView& peers, const PeerReducedNorm& norm,
                             CudaStream& stream) {
  CARAVAN_CHECK(CanFuse(norm));
  CARAVAN_CHECK_EQ(norm.residual.rows, norm.partial.rows);
  CARAVAN_CHECK_EQ(norm.residual.cols, norm.partial.cols);
  CARAVAN_CHECK_EQ(norm.out.rows, norm.partial.rows);
  CARAVAN_CHECK_EQ(norm.out.cols, norm.partial.cols);
  CARAVAN_CHECK_EQ(norm.weight.size, norm.partial.cols);
  if (norm.partial.empty()) return;
  CARAVAN_CHECK(norm.out.data != norm.residual.data, "out may not be residual");
  WithTypes(norm.partial.dtype, norm.residual.dtype, [&](auto partial, auto residual) {
    using P = typename decltype(partial)::type;
    using R = typename decltype(residual)::type;
    WithRanks(peers.world_size, [&](auto ranks) { Launch<P, R, ranks()>(peers, norm, stream); });
  });
}

void LoadPeerNormKernels() {
  const auto load = [](auto* kernel) {
    cudaFuncAttributes attributes;
    CARAVAN_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  };
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const DType partial : {DType::kFloat32, dtype}) {
      WithTypes(partial, dtype, [&](auto p, auto r) {
        using P = typename decltype(p)::type;
        using R = typename decltype(r)::type;
        load(SumAddRmsNormKernel<P, R, 2>);
        load(SumAddRmsNormKernel<P, R, 4>);
        load(SumAddRmsNormKernel<P, R, kMostPeers>);
      });
    }
  }
}

}  // namespace caravan::cuda
