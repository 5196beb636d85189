// What the ranks of a replica do together. The model knows collectives as this interface alone; the
// implementations over Gloo and shared memory are in worker/replica.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// The group of one epoch. All ranks make the same calls in the same order with the same shapes,
// each from one thread at a time; a call blocks until this rank's result is there (CPU) or is
// enqueued (CUDA). A lost peer or Abort gives UNAVAILABLE, on this and on every later call: the
// group is then of no more use, and contents of the buffers are undefined.
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // x = x of rank 0 + x of rank 1 + …, in place on every rank. Added in float32 in the order of the
  // ranks and rounded once to x's dtype, so that all ranks hold the same bits and a row's bits
  // depend on no other row. x is dense (row_stride == cols), of any dtype.
  virtual absl::Status AllReduceSum(MatrixView x, DeviceStream stream) = 0;

  // Columns [r · shard.cols, (r + 1) · shard.cols) of `full` on rank 0 = `shard` of rank r; the
  // others pass an empty `full`. Both are dense and of one dtype.
  virtual absl::Status GatherColumns(ConstMatrixView shard,  // [rows, cols]
                                     MatrixView full,        // [rows, world_size · cols] on rank 0
                                     DeviceStream stream) = 0;

  // `bytes` bytes at `data` in host memory = those of rank `root`, on every rank.
  virtual absl::Status Broadcast(void* data, size_t bytes, int root) = 0;

  // Any thread: makes a call in progress, here, and all later ones return UNAVAILABLE soon.
  virtual void Abort() = 0;
};

// The group of one: every call is done already.
class SingleRankCollectives final : public Collectives {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override;
  absl::Status GatherColumns(ConstMatrixView shard, MatrixView full, DeviceStream stream) override;
  absl::Status Broadcast(void* data, size_t bytes, int root) override;
  void Abort() override {}
};

}  // namespace caravan
