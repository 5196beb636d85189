#include <algorithm>

#include "kernels/device/cuda_check.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/elements.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/rope_append_kv.h"

namespace caravan::cuda {
namespace {

constexpr int kThreads = 128;

// A call as the device sees it.
struct RopeArguments {
  void* qkv;
  int64_t stride;  // elements between tokens
  const float* cos_sin;
  int64_t cos_sin_stride;
  int32_t cos_sin_rows;
  const int32_t* rope_rows;
  const int32_t* query_starts;
  const int32_t* context_lengths;
  const int32_t* block_tables;
  int64_t block_table_stride;
  const int32_t* table_rows;
  int32_t num_sequences;
  int32_t num_decodes;
  void* keys;
  void* values;
  int32_t q_heads;
  int32_t kv_heads;
  int32_t head_size;
  int32_t block_tokens;
};

// The sequence of a query row; num_sequences where the row belongs to none.
__device__ int SequenceOf(const RopeArguments& a, int token) {
  if (token < a.num_decodes) return token;
  int low = a.num_decodes;  // the first sequence that ends after `token`
  int high = a.num_sequences;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (a.query_starts[middle + 1] <= token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Elements in front of KV head 0 of the token's place in the cache, -1 for padding.
__device__ int64_t CacheOffset(const RopeArguments& a, int token) {
  const int s = SequenceOf(a, token);
  if (s >= a.num_sequences || a.context_lengths[s] == 0) return -1;
  const int end = s < a.num_decodes ? token + 1 : a.query_starts[s + 1];
  const int position = a.context_lengths[s] - (end - token);
  const int rope_row = a.rope_rows[token];
  if (position < 0 || rope_row < 0 || rope_row >= a.cos_sin_rows) return -1;
  const int64_t table = a.table_rows == nullptr ? s : a.table_rows[s];
  const int index = position / a.block_tokens;
  const int64_t block = a.block_tables[table * a.block_table_stride + index];
  return (block * a.kv_heads * a.block_tokens + position - index * a.block_tokens) * a.head_size;
}

// N neighbours of a head's first half and those of its second.
template <typename T, int N>
struct Halves {
  Pack<T, N> first;
  Pack<T, N> second;

  __device__ static Halves Load(const T* x, int half) {
    return {*reinterpret_cast<const Pack<T, N>*>(x),
            *reinterpret_cast<const Pack<T, N>*>(x + half)};
  }
  __device__ void Store(T* x, int half) const {
    *reinterpret_cast<Pack<T, N>*>(x) = first;
    *reinterpret_cast<Pack<T, N>*>(x + half) = second;
  }
};

// Of N floats, by accesses of up to 16 bytes.
template <int N>
__device__ void LoadFloats(const float* from, float (&to)[N]) {
  constexpr int kWide = N < 4 ? N : 4;
#pragma unroll
  for (int begin = 0; begin < N; begin += kWide) {
    const auto pack = *reinterpret_cast<const Pack<float, kWide>*>(from + begin);
#pragma unroll
    for (int i = 0; i < kWide; ++i) to[begin + i] = pack.element[i];
  }
}

template <typename To, typename From, int N>
__device__ Halves<To, N> Rotate(const Halves<From, N>& x, const float* cos_sin, int half) {
  float cosines[N];
  float sines[N];
  LoadFloats<N>(cos_sin, cosines);
  LoadFloats<N>(cos_sin + half, sines);
  Halves<To, N> rotated;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float a = ToFloat(x.first.element[i]);
    const float b = ToFloat(x.second.element[i]);
    rotated.first.element[i] = FromFloat<To>(a * cosines[i] - b * sines[i]);
    rotated.second.element[i] = FromFloat<To>(b * cosines[i] + a * sines[i]);
  }
  return rotated;
}

template <typename To, typename From, int N>
__device__ Halves<To, N> Convert(const Halves<From, N>& x) {
  Halves<To, N> converted;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    converted.first.element[i] = FromFloat<To>(ToFloat(x.first.element[i]));
    converted.second.element[i] = FromFloat<To>(ToFloat(x.second.element[i]));
  }
  return converted;
}

// A thread per N pairs of one head of one token: a token alone, as in decoding, is spread over the
// threads of some blocks, and each has two wide loads in flight while it looks up where its token
// goes. Values are moved as pairs too.
template <int N, typename In, typename Kv>
__global__ void __launch_bounds__(kThreads) RopeAppendKvKernel(const RopeArguments a) {
  ReleaseSuccessor();
  WaitForPredecessor();
  const int token = static_cast<int>(blockIdx.x);
  const int half = a.head_size / 2;
  const int pieces = half / N;  // of a head
  const int item = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const int head = item / pieces;
  if (head >= a.q_heads + 2 * a.kv_heads) return;
  const int column = (item - head * pieces) * N;
  In* from = static_cast<In*>(a.qkv) + token * a.stride + int64_t{head} * a.head_size + column;
  const auto x = Halves<In, N>::Load(from, half);
  const int64_t offset = CacheOffset(a, token);
  if (offset < 0) return;
  const float* cos_sin = a.cos_sin + a.rope_rows[token] * a.cos_sin_stride + column;
  if (head < a.q_heads) {
    Rotate<In>(x, cos_sin, half).Store(from, half);
    return;
  }
  const bool is_key = head < a.q_heads + a.kv_heads;
  const int kv_head = head - a.q_heads - (is_key ? 0 : a.kv_heads);
  Kv* to = static_cast<Kv*>(is_key ? a.keys : a.values) + offset +
           int64_t{kv_head} * a.block_tokens * a.head_size + column;
  (is_key ? Rotate<Kv>(x, cos_sin, half) : Convert<Kv>(x)).Store(to, half);
}

template <int N, typename In, typename Kv>
void Launch(const RopeArguments& arguments, int64_t tokens, const CudaStream& stream) {
  const int64_t items =
      int64_t{arguments.q_heads + 2 * arguments.kv_heads} * (arguments.head_size / 2 / N);
  const dim3 grid(static_cast<unsigned>(tokens),
                  static_cast<unsigned>((items + kThreads - 1) / kThreads));
  LaunchDependent(RopeAppendKvKernel<N, In, Kv>, {.grid = grid, .threads = kThreads}, stream,
                  arguments);
}

}  // namespace

void RopeAppendKv(MatrixView qkv, ConstMatrixView cos_sin, std::span<const int32_t> rope_rows,
                  const PagedBatch& batch, const KvCacheView& kv, CudaStream& stream) {
  const RopeArguments arguments = {
      .qkv = qkv.data,
      .stride = qkv.row_stride,
      .cos_sin = static_cast<const float*>(cos_sin.data),
      .cos_sin_stride = cos_sin.row_stride,
      .cos_sin_rows = static_cast<int32_t>(cos_sin.rows),
      .rope_rows = rope_rows.data(),
      .query_starts = batch.query_starts.data(),
      .context_lengths = batch.context_lengths.data(),
      .block_tables = batch.block_tables,
      .block_table_stride = batch.block_table_stride,
      .table_rows = batch.table_rows,
      .num_sequences = static_cast<int32_t>(batch.num_sequences()),
      .num_decodes = batch.num_decodes,
      .keys = kv.keys,
      .values = kv.values,
      .q_heads = static_cast<int32_t>(qkv.cols / kv.head_size - int64_t{2} * kv.kv_heads),
      .kv_heads = kv.kv_heads,
      .head_size = kv.head_size,
      .block_tokens = kv.block_tokens,
  };
  WithType(qkv.dtype, [&](auto in) {
    WithType(kv.dtype, [&](auto cache) {
      using In = typename decltype(in)::type;
      using Kv = typename decltype(cache)::type;
      constexpr int kWide = std::min(kVector<In>, kVector<Kv>);
      const bool wide = kv.head_size % (2 * kWide) == 0 && qkv.row_stride % kWide == 0 &&
                        cos_sin.row_stride % 4 == 0 && IsAligned16(cos_sin.data) &&
                        IsAligned16(qkv.data) && IsAligned16(kv.keys) && IsAligned16(kv.values);
      if (wide) {
        Launch<kWide, In, Kv>(arguments, qkv.rows, stream);
      } else {
        Launch<1, In, Kv>(arguments, qkv.rows, stream);
      }
    });
  });
}

}  // namespace caravan::cuda
