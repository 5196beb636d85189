// What the kernels of paged attention share: their arguments, and the addresses of paged KV.
#pragma once

#include <cstdint>

#include "kernels/device/cuda_stream.h"
#include "kernels/paged_kv.h"
#include "kernels/view.h"

namespace caravan::cuda {

// A call of PagedAttention as the device sees it. The rows of one (token, KV head) are its `group`
// query heads: they read the same keys and values, so kernels treat tokens x group as the rows of
// one matrix.
struct AttentionArguments {
  const void* q;
  int64_t q_stride;  // elements between tokens
  void* out;
  int64_t out_stride;
  const void* keys;
  const void* values;
  const int32_t* query_starts;
  const int32_t* context_lengths;
  const int32_t* block_tables;
  int64_t block_table_stride;
  const int32_t* table_rows;
  int32_t num_sequences;
  int32_t kv_heads;
  int32_t group;
  int32_t head_size;
  int32_t block_tokens;
  int32_t block_shift;  // log2(block_tokens), or -1
  float scale;          // of scores, times log2(e): softmax in powers of two

  __device__ const int32_t* TableOf(int sequence) const {
    const int64_t row = table_rows == nullptr ? sequence : table_rows[sequence];
    return block_tables + row * block_table_stride;
  }
  // Elements in front of position `position` of one KV head, in keys and in values.
  __device__ int64_t OffsetOf(const int32_t* table, int kv_head, int position) const {
    const unsigned p = static_cast<unsigned>(position);
    const unsigned index =
        block_shift >= 0 ? p >> block_shift : p / static_cast<unsigned>(block_tokens);
    const unsigned in_block = p - index * static_cast<unsigned>(block_tokens);
    return ((int64_t{table[index]} * kv_heads + kv_head) * block_tokens + in_block) * head_size;
  }
};

// Decoding: sequences [0, count) have one query each, row s is sequence s's. Needs two-byte
// elements of one dtype everywhere, head_size a multiple of 8 up to 256, rows that are 16-byte
// aligned. `max_context` bounds the context lengths.
void LaunchDecodeAttention(const AttentionArguments& arguments, DType dtype, int32_t count,
                           int64_t max_context, CudaStream& stream);

// Sequences [first, num_sequences) whatever their numbers of queries, `rows` at most in all; the
// bits of a row depend on its own sequence alone. Needs what decoding needs.
void LaunchPrefillAttention(const AttentionArguments& arguments, DType dtype, int32_t first,
                            int64_t rows, CudaStream& stream);

// The same on sm_90a, for head sizes up to 128.
void LaunchHopperPrefillAttention(const AttentionArguments& arguments, DType dtype, int32_t first,
                                  int64_t rows, CudaStream& stream);

// The same for any dtypes and any head size up to 256, without tensor cores.
struct AttentionTypes {
  DType q;
  DType kv;
  DType out;
};
void LaunchGenericAttention(const AttentionArguments& arguments, const AttentionTypes& types,
                            int64_t rows, CudaStream& stream);

// The rows of one thread block: (token, head of the group) pairs of one KV head, token by token.
struct RowBlock {
  int sequence = -1;  // none: the block has nothing to do
  int kv_head;
  int first_row;
  int end_row;
  int first_token;     // of the sequence, in q and out
  int first_position;  // of the sequence's first token
  int positions;       // that its last row sees

  __device__ int PositionOf(const AttentionArguments& a, int row) const {
    return first_position + row / a.group;
  }
  // Elements of q or out in front of a row.
  __device__ int64_t OffsetOf(const AttentionArguments& a, int row, int64_t stride) const {
    const int token = row / a.group;
    const int head = kv_head * a.group + row - token * a.group;
    return (first_token + token) * stride + int64_t{head} * a.head_size;
  }
};

// Of the `index`th tile of kRows rows among the sequences [first, num_sequences), the sequence
// and the tile's number in it. For whole warps: lanes look at one sequence each, 32 at a time.
// Padding has no tiles.
template <int kRows>
__device__ int2 FindRowTile(const AttentionArguments& a, int first, int index) {
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int base = first; base < a.num_sequences; base += 32) {
    const int s = base + lane;
    int tiles = 0;
    if (s < a.num_sequences && a.context_lengths[s] > 0) {
      tiles = ((a.query_starts[s + 1] - a.query_starts[s]) * a.group + kRows - 1) / kRows;
    }
    int through = tiles;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(~0u, through, distance);
      if (lane >= distance) through += other;
    }
    const unsigned reached = __ballot_sync(~0u, before + through > index);
    if (reached != 0) {
      const int owner = __ffs(static_cast<int>(reached)) - 1;
      return {base + owner, index - before - __shfl_sync(~0u, through - tiles, owner)};
    }
    before += __shfl_sync(~0u, through, 31);
  }
  return {-1, 0};
}

// The rows of this thread block in a grid of NumRowBlocks: the sequences' last tiles, which see
// most positions, come first, so that the last blocks to start are short.
template <int kRows>
__device__ RowBlock FindRowBlock(const AttentionArguments& a, int first_sequence) {
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x) / a.kv_heads;
  const int2 place = FindRowTile<kRows>(a, first_sequence, tile);
  RowBlock block;
  block.sequence = place.x;
  if (block.sequence < 0) return block;
  block.kv_head = static_cast<int>(blockIdx.x) % a.kv_heads;
  block.first_token = a.query_starts[block.sequence];
  const int tokens = a.query_starts[block.sequence + 1] - block.first_token;
  block.first_row = place.y * kRows;
  block.end_row = min(block.first_row + kRows, tokens * a.group);
  block.first_position = a.context_lengths[block.sequence] - tokens;
  block.positions = block.PositionOf(a, block.end_row - 1) + 1;
  return block;
}

// As many thread blocks as `rows` query rows in all can need.
inline unsigned NumRowBlocks(const AttentionArguments& a, int first, int64_t rows, int tile_rows) {
  const int64_t tiles = rows * a.group / tile_rows + (a.num_sequences - first);
  return static_cast<unsigned>(tiles * a.kv_heads);
}

// Where the positions of a tile lie: lanes look up the block of a run of 8 positions each, so that
// a warp's copies need not wait for a lookup of their own.
template <int kPositions>
class TileOffsets {
 public:
  static constexpr int kRun = 8;
  static_assert(kPositions / kRun <= 32);

  // Looks up the positions from `first` on, of those before `end`. By whole warps.
  __device__ void Load(const AttentionArguments& a, const int32_t* table, int kv_head, int first,
                       int end) {
    const int position = first + static_cast<int>(threadIdx.x) % (kPositions / kRun) * kRun;
    of_lane_ = position < end ? a.OffsetOf(table, kv_head, position) : 0;
  }
  // Whether a run lies in one block. Else each position has to be looked up by itself.
  __device__ static bool Serve(const AttentionArguments& a) { return a.block_tokens % kRun == 0; }
  // Elements in front of row `row` of the tile. By whole warps.
  __device__ int64_t Of(const AttentionArguments& a, int row) const {
    return __shfl_sync(~0u, of_lane_, row / kRun) + row % kRun * a.head_size;
  }

 private:
  int64_t of_lane_ = 0;
};

}  // namespace caravan::cuda
