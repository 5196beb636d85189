// What ranks on the GPUs of one host compute together through memory that all of them write to.
// The CPU's twin is worker/replica's collectives over shared memory; these run on CUDA alone.
//
// Every rank calls the same operator with the same shapes, dtypes and kind of stream, in the same
// order. Kernels wait for the peers' on the device; after PeerMemory::Abort they end without a
// result. They can be captured in CUDA graphs.
#pragma once

#include <cstdint>

#include "kernels/device/cuda_stream.h"
#include "kernels/device/peer_memory.h"
#include "kernels/view.h"

namespace caravan::cuda {

// Above so many bytes, with more than two ranks, every rank sums a part and sends it to the others,
// which halves or quarters the traffic for a second latency of about 2 µs. That alone uses the
// ring.
constexpr int64_t MostBytesSummedEverywhere(int world_size) {
  if (world_size <= 2) return int64_t{1} << 62;
  return world_size <= 4 ? 512 << 10 : 128 << 10;
}

// Of a ring that is large enough for all speed (as measured with four ranks); a smaller one works
// too.
constexpr int64_t RingBytesFor(int world_size) { return world_size <= 2 ? 0 : int64_t{80} << 20; }

// x = x of rank 0 + x of rank 1 + …, in place, added in float32 in the order of the ranks and
// rounded once: equal bits on all ranks, whatever the shape.
void PeerAllReduceSum(const PeerView& peers, MatrixView x, CudaStream& stream);  // dense

// residual += partial of rank 0 + partial of rank 1 + …, rounded once to residual's dtype; out =
// RmsNorm(residual), as in kernels/rms_norm.h.
struct PeerReducedNorm {
  ConstMatrixView partial;  // [tokens, hidden]
  ConstVectorView weight;   // [hidden]
  float epsilon = 0;
  MatrixView residual;  // [tokens, hidden]
  MatrixView out;       // [tokens, hidden]; may be partial
};

// Whether PeerAllReduceAddRmsNorm takes this: residual, weight and out of one dtype, partial of
// the same or float32, rows of whole 16 bytes and at most 8192 elements.
bool CanFuse(const PeerReducedNorm& norm);

// Whether fusing is also the fastest. On a batch_invariant stream always, where it is possible: a
// row's bits then do not depend on the number of rows.
bool ShouldFuse(const PeerView& peers, const PeerReducedNorm& norm, const CudaStream& stream);

// REQUIRES: CanFuse(norm).
void PeerAllReduceAddRmsNorm(const PeerView& peers, const PeerReducedNorm& norm,
                             CudaStream& stream);

// Columns [r · shard.cols, (r + 1) · shard.cols) of `full` = `shard` of rank r, on all ranks.
void PeerGatherColumns(const PeerView& peers,
                       ConstMatrixView shard,  // [rows, cols], dense
                       MatrixView full,        // [rows, world_size · cols], dense
                       CudaStream& stream);

// out[i] = addends[0][i] + addends[1][i] + …, each of `count` elements one behind the other: the
// sum of PeerAllReduceSum over what was gathered otherwise.
void SumInRankOrder(const void* addends, int world_size, MatrixView out, CudaStream& stream);

// Loads the machine code of all kernels of this file: loading it later would wait for kernels
// that wait for peers.
void LoadPeerKernels();

}  // namespace caravan::cuda
