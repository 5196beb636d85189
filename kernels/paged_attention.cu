#include <bit>
#include <numbers>
#include <string>

#include "kernels/device/attention/arguments.cuh"
#include "kernels/device/attention/paths.h"
#include "kernels/device/cuda_check.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/paged_attention.h"

namespace caravan::cuda {
namespace {

AttentionArguments MakeArguments(ConstMatrixView q, const KvCacheView& kv, const PagedBatch& batch,
                                 float scale, MatrixView out) {
  const bool power_of_two = std::has_single_bit(static_cast<unsigned>(kv.block_tokens));
  return {
      .q = q.data,
      .q_stride = q.row_stride,
      .out = out.data,
      .out_stride = out.row_stride,
      .keys = kv.keys,
      .values = kv.values,
      .query_starts = batch.query_starts.data(),
      .context_lengths = batch.context_lengths.data(),
      .block_tables = batch.block_tables,
      .block_table_stride = batch.block_table_stride,
      .table_rows = batch.table_rows,
      .num_sequences = static_cast<int32_t>(batch.num_sequences()),
      .kv_heads = kv.kv_heads,
      .group = static_cast<int32_t>(q.cols / kv.head_size / kv.kv_heads),
      .head_size = kv.head_size,
      .block_tokens = kv.block_tokens,
      .block_shift = power_of_two ? std::countr_zero(static_cast<unsigned>(kv.block_tokens)) : -1,
      .scale = scale * std::numbers::log2e_v<float>,
  };
}

// Whether the tensor-core kernels can: see LaunchDecodeAttention.
bool FitsTensorCores(ConstMatrixView q, const KvCacheView& kv, MatrixView out) {
  return kv.dtype != DType::kFloat32 && q.dtype == kv.dtype && out.dtype == kv.dtype &&
         kv.head_size % 8 == 0 && kv.head_size <= 256 && q.row_stride % 8 == 0 &&
         out.row_stride % 8 == 0 && IsAligned16(q.data) && IsAligned16(out.data) &&
         IsAligned16(kv.keys) && IsAligned16(kv.values);
}

bool HasHopperPath(const CudaStream& stream) {
  static const bool built = BuiltArchitectures().find("90a") != std::string::npos;
  return built && stream.device().compute_capability == 90;
}

constexpr int kCopyThreads = 256;

// A thread per N-byte piece of a block, keys and values, over all pairs: pairs are in order, and
// whatever a pair reads of what another has written, the same thread has written.
template <typename Piece>
__global__ void CopyBlocksKernel(Piece* keys, Piece* values, int64_t block_pieces,
                                 const BlockCopy* copies, int count) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const int64_t piece = int64_t{blockIdx.x} * kCopyThreads + threadIdx.x;
  if (piece >= block_pieces) return;
  Piece* memory = (blockIdx.y == 0 ? keys : values) + piece;
  for (int i = 0; i < count; ++i) {
    memory[copies[i].to * block_pieces] = memory[copies[i].from * block_pieces];
  }
}

template <typename Piece>
void LaunchCopy(const KvCacheView& kv, int64_t block_bytes, std::span<const BlockCopy> copies,
                const CudaStream& stream) {
  const int64_t pieces = block_bytes / static_cast<int64_t>(sizeof(Piece));
  const dim3 grid(static_cast<unsigned>((pieces + kCopyThreads - 1) / kCopyThreads), 2);
  LaunchDependent(CopyBlocksKernel<Piece>, {.grid = grid, .threads = kCopyThreads}, stream,
                  static_cast<Piece*>(kv.keys), static_cast<Piece*>(kv.values), pieces,
                  copies.data(), static_cast<int>(copies.size()));
}

}  // namespace

void PagedAttentionBy(AttentionPath path, ConstMatrixView q, const KvCacheView& kv,
                      const PagedBatch& batch, float scale, MatrixView out, CudaStream& stream) {
  if (batch.num_sequences() == 0) return;
  const AttentionArguments arguments = MakeArguments(q, kv, batch, scale, out);
  if (!FitsTensorCores(q, kv, out)) {
    LaunchGenericAttention(arguments, {q.dtype, kv.dtype, out.dtype}, q.rows, stream);
    return;
  }
  // Splitting a sequence's positions depends on what else decodes, so that batch-invariant
  // decoding is a prompt's chunk of one token.
  const int32_t decodes = stream.batch_invariant() ? 0 : batch.num_decodes;
  if (decodes > 0) {
    const int64_t most = batch.block_table_stride * kv.block_tokens;
    LaunchDecodeAttention(arguments, kv.dtype, decodes,
                          batch.max_decode_context > 0 ? batch.max_decode_context : most, stream);
  }
  if (decodes >= batch.num_sequences() || decodes >= q.rows) return;
  if (path == AttentionPath::kBest && kv.head_size <= 128 && HasHopperPath(stream)) {
    LaunchHopperPrefillAttention(arguments, kv.dtype, decodes, q.rows - decodes, stream);
  } else {
    LaunchPrefillAttention(arguments, kv.dtype, decodes, q.rows - decodes, stream);
  }
}

void PagedAttention(ConstMatrixView q, const KvCacheView& kv, const PagedBatch& batch, float scale,
                    MatrixView out, CudaStream& stream) {
  PagedAttentionBy(AttentionPath::kBest, q, kv, batch, scale, out, stream);
}

void CopyKvBlocks(const KvCacheView& kv, std::span<const BlockCopy> copies, CudaStream& stream) {
  const int64_t bytes = int64_t{kv.kv_heads} * kv.block_tokens * kv.head_size * SizeOf(kv.dtype);
  if (bytes % 16 == 0 && IsAligned16(kv.keys) && IsAligned16(kv.values)) {
    LaunchCopy<uint4>(kv, bytes, copies, stream);
  } else {
    LaunchCopy<uint16_t>(kv, bytes, copies, stream);
  }
}

}  // namespace caravan::cuda
