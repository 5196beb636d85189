// What the ranks of a replica do together. The model knows collectives as this interface alone; the
// implementations are in worker/replica: shared memory and Gloo for ranks on CPUs, peer memory and
// NCCL for ranks on GPUs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// What AllReduceAddRmsNorm takes; all of one stream's device.
struct ReducedNorm {
  MatrixView partial;      // [tokens, hidden], dense: this rank's addend; undefined afterwards
  ConstVectorView weight;  // [hidden]
  float epsilon = 0;
  MatrixView residual;  // [tokens, hidden], equal on all ranks
  MatrixView out;       // [tokens, hidden]; may be `partial`, not `residual`
};

// The group of one epoch. All ranks make the same calls in the same order with the same shapes and
// dtypes, each from one thread at a time; a call blocks until this rank's result is there (CPU) or
// is enqueued (CUDA). A lost peer or Abort gives UNAVAILABLE, on this and on every later call: the
// group is then of no more use, and contents of the buffers are undefined.
//
// On CUDA all calls of a group go to one stream, and may be captured in a CUDA graph, which is
// launched like a call: on all ranks alike, one stream, never after Abort has been seen. Graphs
// are destroyed before the group, and the group once what was enqueued has run. What Abort frees
// has no result, so whoever has waited for the stream asks status() before using one.
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // OK while the group stands; UNAVAILABLE with the reason once it does not. Any thread.
  virtual absl::Status status() const { return absl::OkStatus(); }

  // x = x of rank 0 + x of rank 1 + …, in place on every rank. Added in float32 in the order of the
  // ranks and rounded once to x's dtype, so that all ranks hold the same bits and a row's bits
  // depend on no other row (NCCL: in an order of its own, equal on all ranks, unless the stream is
  // batch_invariant). x is dense (row_stride == cols), of any dtype.
  virtual absl::Status AllReduceSum(MatrixView x, DeviceStream stream) = 0;

  // residual += partial of rank 0 + partial of rank 1 + …, rounded to residual's dtype, and out =
  // RmsNorm(residual), as in kernels/rms_norm.h. Here AllReduceSum and AddRmsNorm one after the
  // other; fused, a 16-bit sum is not rounded in between.
  virtual absl::Status AllReduceAddRmsNorm(const ReducedNorm& norm, DeviceStream stream);

  // Whether GatherColumns gives its result to every rank, or to rank 0 alone.
  virtual bool gathers_on_all_ranks() const { return false; }

  // Columns [r · shard.cols, (r + 1) · shard.cols) of `full` = `shard` of rank r. Ranks that get
  // no result pass an empty `full`. Both are dense and of one dtype.
  virtual absl::Status GatherColumns(ConstMatrixView shard,  // [rows, cols]
                                     MatrixView full,        // [rows, world_size · cols]
                                     DeviceStream stream) = 0;

  // `bytes` bytes at `data` in host memory = those of rank `root`, on every rank. For groups that
  // do not gather on all ranks: the others have no use for it, and give UNIMPLEMENTED.
  virtual absl::Status Broadcast(void* data, size_t bytes, int root) = 0;

  // Any thread: makes a call in progress, here, and all later ones return UNAVAILABLE soon.
  virtual void Abort() = 0;
};

// The group of one: every call is done already.
class SingleRankCollectives : public Collectives {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  bool gathers_on_all_ranks() const override { return true; }
  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override;
  absl::Status GatherColumns(ConstMatrixView shard, MatrixView full, DeviceStream stream) override;
  absl::Status Broadcast(void* data, size_t bytes, int root) override;
  void Abort() override {}
};

}  // namespace caravan
