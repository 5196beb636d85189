// How one warp walks along the steps of decode attention: copies ahead, tensor cores, softmax.
#pragma once

#include "kernels/device/attention/decode.cuh"
#include "kernels/device/attention/online_softmax.cuh"
#include "kernels/device/tensor_core.cuh"

namespace caravan::cuda {

// Asynchronous copies in flight hide the latency of memory: 96 KiB a block leaves two blocks on an
// SM of Hopper, one on the others.
template <int kCols>
struct DecodeShape {
  static constexpr int kWarps = kCols > 128 ? 2 : 4;
  static constexpr int kTileBytes = SwizzledTile<kCols>::Bytes(kDecodeStep);
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kStages = (96 << 10) / (kWarps * kStageBytes);
  static constexpr int kStagesBytes = kWarps * kStages * kStageBytes;
};

// What a warp knows of its unit while it walks along the positions, in fragments.
template <int kCols>
struct DecodeState {
  uint32_t q[kCols / 16][4];
  float out[kCols / 8][4];
  SoftmaxRows rows;

  __device__ void Reset() {
#pragma unroll
    for (auto& fragment : out) {
      for (float& x : fragment) x = 0;
    }
    rows = {};
  }
};

// Queries as fragments of A, zero where the unit has no row or the head no element.
template <typename T, int kCols>
__device__ void StartUnit(const AttentionArguments& a, const DecodePart& part,
                          DecodeState<kCols>& state) {
  const int lane = threadIdx.x % 32;
  const T* q = static_cast<const T*>(a.q) + part.sequence * a.q_stride +
               int64_t{part.first_head} * a.head_size;
#pragma unroll
  for (int k = 0; k < kCols / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8;
      const int column = k * 16 + i / 2 * 8 + lane % 4 * 2;
      state.q[k][i] = row < part.rows && column < a.head_size
                          ? *reinterpret_cast<const uint32_t*>(q + row * a.head_size + column)
                          : 0;
    }
  }
  state.Reset();
}

// Copies steps of the line into stages, ahead of those that are computed.
template <typename T, int kCols>
class StepCopier {
 public:
  __device__ StepCopier(const DecodeWork& work, unsigned step, unsigned end)
      : work_(work), step_(step), end_(end) {
    if (step_ < end_) Enter();
  }

  // Starts to copy the next step, if there is one, as one group in any case.
  __device__ void CopyNext(int stage) {
    if (step_ < end_) {
      Copy(work_.stages + stage * DecodeShape<kCols>::kStageBytes);
      // The place of the step after is looked up now, since its copies would wait for it.
      if (++step_ < end_) {
        if (++next_ == part_.end_step) {
          Enter();
        } else {
          offset_ = work_.a.OffsetOf(part_.table, part_.kv_head, next_ * kDecodeStep);
        }
      }
    }
    CommitCopies();
  }

 private:
  using Tile = SwizzledTile<kCols>;

  __device__ void Enter() {
    part_ = work_.PartAt(step_, end_);
    next_ = part_.first_step;
    offset_ = work_.a.OffsetOf(part_.table, part_.kv_head, next_ * kDecodeStep);
  }
  __device__ void Copy(uint32_t shared) const {
    const AttentionArguments& a = work_.a;
    if (a.block_tokens % kDecodeStep == 0) {
#pragma unroll
      for (int i = 0; i < kDecodeStep * Tile::kChunks / 32; ++i) {
        const int row = RowOf(i);
        CopyChunk(shared, row, ChunkOf(i), offset_ + row * a.head_size);
      }
      return;
    }
    // The step lies in several blocks, and each row looks its own up.
#pragma unroll 1
    for (int i = 0; i < kDecodeStep * Tile::kChunks / 32; ++i) {
      const int position = min(next_ * kDecodeStep + RowOf(i), part_.context - 1);
      CopyChunk(shared, RowOf(i), ChunkOf(i), a.OffsetOf(part_.table, part_.kv_head, position));
    }
  }
  // The lane's i-th chunk of keys and of values.
  __device__ static int RowOf(int i) {
    return (i * 32 + static_cast<int>(threadIdx.x % 32)) / Tile::kChunks;
  }
  __device__ static int ChunkOf(int i) {
    return (i * 32 + static_cast<int>(threadIdx.x % 32)) % Tile::kChunks;
  }
  __device__ void CopyChunk(uint32_t shared, int row, int chunk, int64_t row_offset) const {
    const AttentionArguments& a = work_.a;
    const bool valid = next_ * kDecodeStep + row < part_.context && chunk * 8 < a.head_size;
    const int64_t source = row_offset + chunk * 8;
    const uint32_t to = shared + Tile::Offset(row, chunk);
    CopyAsync16(to, static_cast<const T*>(a.keys) + source, valid);
    CopyAsync16(to + Tile::Bytes(kDecodeStep), static_cast<const T*>(a.values) + source, valid);
  }

  const DecodeWork& work_;
  unsigned step_;  // the next one to copy
  const unsigned end_;
  DecodePart part_;  // that it lies in
  int next_;         // its number in the unit
  int64_t offset_;   // of its first position
};

// scores = q · keysᵀ for 16 positions; -inf from `visible` positions on.
template <typename T, int kCols>
__device__ void ScoreStep(const DecodeState<kCols>& state, uint32_t keys, int visible,
                          float (&scores)[2][4]) {
  const int lane = threadIdx.x % 32;
  const FragmentAddress<kCols> address = AddressOfColumnsB<kCols>(lane);
#pragma unroll
  for (int k = 0; k < kCols / 16; ++k) {
    uint32_t b[4];
    LoadFragment(address.At(keys, k), b);
    MultiplyAdd<T>(scores[0], state.q[k], b[0], b[1]);
    MultiplyAdd<T>(scores[1], state.q[k], b[2], b[3]);
  }
  if (visible >= kDecodeStep) return;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n * 8 + lane % 4 * 2 + i % 2 >= visible) scores[n][i] = -INFINITY;
    }
  }
}

template <typename T, int kCols>
__device__ void AttendStep(const AttentionArguments& a, DecodeState<kCols>& state, uint32_t shared,
                           int visible) {
  float scores[2][4] = {};
  ScoreStep<T>(state, shared, visible, scores);
  float correction[2];
  FoldScores(a.scale, scores, state.rows, correction);
  Correct(correction, state.out);
  uint32_t weights[4];
  PackWeights<T>(scores, 0, weights);
  const FragmentAddress<kCols> address = AddressOfRowsB<kCols>(threadIdx.x % 32);
  const uint32_t values = shared + SwizzledTile<kCols>::Bytes(kDecodeStep);
#pragma unroll
  for (int n = 0; n < kCols / 16; ++n) {
    uint32_t b[4];
    LoadTransposed(address.At(values, n), b);
    MultiplyAdd<T>(state.out[2 * n], weights, b[0], b[1]);
    MultiplyAdd<T>(state.out[2 * n + 1], weights, b[2], b[3]);
  }
}

// The steps [begin, end) of the line through the warp's ring of stages: copies run kStages - 1
// steps ahead, across units, and the warp waits for no other. Calls done(part) after each unit's.
// One place for copies, since small code is what short contexts wait for.
template <typename T, int kCols, typename Done>
__device__ void AttendSteps(const DecodeWork& work, unsigned begin, unsigned end,
                            DecodeState<kCols>& state, const Done& done) {
  using Shape = DecodeShape<kCols>;
  StepCopier<T, kCols> copier(work, begin, end);
  DecodePart part;
  part.end_step = 0;
  int ahead = 0;    // steps under way
  int copy_to = 0;  // stage
  int stage = 0;
  int next = 0;  // step of the part
#pragma unroll 1
  for (unsigned step = begin; step < end;) {
    if (ahead == Shape::kStages - 1) {
      WaitForCopies<Shape::kStages - 2>();
      __syncwarp();  // of all lanes; and the stage of the step before is free
    }
    copier.CopyNext(copy_to);
    copy_to = copy_to == Shape::kStages - 1 ? 0 : copy_to + 1;
    if (ahead < Shape::kStages - 1) {
      ++ahead;
      continue;
    }
    if (next == part.end_step) {
      part = work.PartAt(step, end);
      next = part.first_step;
      StartUnit<T>(work.a, part, state);
    }
    AttendStep<T>(work.a, state, work.stages + stage * Shape::kStageBytes,
                  part.context - next * kDecodeStep);
    stage = stage == Shape::kStages - 1 ? 0 : stage + 1;
    ++step;
    if (++next == part.end_step) done(part);
  }
}

}  // namespace caravan::cuda
