// Paged attention on the GPU over shuffled blocks of 16, each call on memory of its own.
#ifdef CARAVAN_HAS_CUDA

#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/device/attention/paths.h"
#include "kernels/device/device_memory.h"
#include "kernels/dummy_fill.h"
#include "kernels/paged_attention.h"
#include "kernels/rope_append_kv.h"
#include "tests/kernels/cuda_ceiling.h"

namespace caravan {
namespace {

constexpr int64_t kPoolBytes = int64_t{2} << 30;  // keys, and as many values
constexpr int32_t kBlockTokens = 16;
constexpr int64_t kMostQueryElements = int64_t{16384} * 4096 * 3;

// Random keys, values and queries for all benchmarks.
struct Memory {
  DeviceMemory keys = DeviceMemory::Allocate(kPoolBytes);
  DeviceMemory values = DeviceMemory::Allocate(kPoolBytes);
  DeviceMemory q = DeviceMemory::Allocate(kMostQueryElements * 4);
  DeviceMemory out = DeviceMemory::Allocate(kMostQueryElements * 4);
};

const Memory& RandomMemory(CudaStream& stream) {
  static const Memory* memory = [&] {
    auto* m = new Memory;
    for (const DeviceMemory* part : {&m->keys, &m->values, &m->q, &m->out}) {
      CARAVAN_CHECK(part->data() != nullptr, "too little memory on the GPU");
      FillDummy({.key = reinterpret_cast<uintptr_t>(part)},
                DenseMatrix(part->data(), DType::kBFloat16, 1, part->bytes() / 2),
                DeviceStream::Cuda(stream));
    }
    stream.Synchronize();
    return m;
  }();
  return *memory;
}

struct Shape {
  int32_t q_heads;
  int32_t kv_heads;
  int32_t head_size;
  int32_t sequences;
  int32_t queries;  // of each sequence
  int32_t context;
  DType dtype;

  int64_t columns() const { return int64_t{q_heads} * head_size; }
  double kv_bytes() const {
    return 2.0 * sequences * context * kv_heads * head_size * static_cast<double>(SizeOf(dtype));
  }
};

// The batch in device memory, with block tables over the whole pool: call i reads the i-th part.
class DeviceBatch {
 public:
  DeviceBatch(const Shape& shape, CudaStream& stream)
      : shape_(shape),
        memory_(RandomMemory(stream)),
        blocks_((shape.context + kBlockTokens - 1) / kBlockTokens),
        kv_{.dtype = shape.dtype,
            .keys = memory_.keys.data(),
            .values = memory_.values.data(),
            .block_tokens = kBlockTokens,
            .kv_heads = shape.kv_heads,
            .head_size = shape.head_size} {
    kv_.num_blocks = kPoolBytes / (int64_t{kBlockTokens} * shape.kv_heads * shape.head_size *
                                   SizeOf(shape.dtype));
    CARAVAN_CHECK(kv_.num_blocks >= blocks_ * shape.sequences, "the pool is too small");
    std::vector<int32_t> table(static_cast<size_t>(kv_.num_blocks));
    for (size_t i = 0; i < table.size(); ++i) {
      table[i] = static_cast<int32_t>(i * 7919 % table.size());  // a prime: each block once
    }
    std::vector<int32_t> starts;
    for (int32_t s = 0; s <= shape.sequences; ++s) starts.push_back(s * shape.queries);
    const std::vector<int32_t> contexts(static_cast<size_t>(shape.sequences), shape.context);
    table_ = Upload(table, stream);
    starts_ = Upload(starts, stream);
    contexts_ = Upload(contexts, stream);
  }

  int64_t parts() const { return kv_.num_blocks / (blocks_ * shape_.sequences); }
  PagedBatch Part(int i) const {
    const size_t n = static_cast<size_t>(shape_.sequences);
    return {.query_starts = {starts_.as<int32_t>(), n + 1},
            .context_lengths = {contexts_.as<int32_t>(), n},
            .block_tables = table_.as<int32_t>() + i % parts() * blocks_ * shape_.sequences,
            .block_table_stride = blocks_,
            .num_decodes = shape_.queries == 1 ? shape_.sequences : 0,
            .max_decode_context = shape_.context,
            .max_prefill_context = shape_.context};
  }
  int64_t rows() const { return int64_t{shape_.sequences} * shape_.queries; }
  void Attend(cuda::AttentionPath path, int i, CudaStream& stream) const {
    const void* q = memory_.q.data();
    PagedAttentionBy(
        path, DenseMatrix(q, shape_.dtype, rows(), shape_.columns()), kv_, Part(i), 0.088f,
        DenseMatrix(memory_.out.data(), shape_.dtype, rows(), shape_.columns()), stream);
  }
  const KvCacheView& kv() const { return kv_; }
  const Memory& memory() const { return memory_; }

  static DeviceMemory Upload(const std::vector<int32_t>& values, CudaStream& stream) {
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(int32_t));
    DeviceMemory memory = DeviceMemory::Allocate(bytes);
    CopyToDevice(memory.data(), values.data(), bytes, stream);
    stream.Synchronize();
    return memory;
  }

 private:
  Shape shape_;
  const Memory& memory_;
  int64_t blocks_;  // of a sequence
  KvCacheView kv_;
  DeviceMemory table_;
  DeviceMemory starts_;
  DeviceMemory contexts_;
};

enum Way : int64_t { kFast, kInvariant, kPortable };

std::string LabelOf(const Shape& shape, Way way) {
  return std::to_string(shape.q_heads) + "/" + std::to_string(shape.kv_heads) + " heads of " +
         std::to_string(shape.head_size) + " " + NameOf(shape.dtype) +
         (way == kInvariant  ? " batch invariant"
          : way == kPortable ? " portable"
                             : "");
}

// args: query heads, KV heads, head size, sequences, queries, context, dtype, way.
Shape ShapeOf(const benchmark::State& state) {
  const auto arg = [&](size_t i) { return static_cast<int32_t>(state.range(i)); };
  return {arg(0), arg(1), arg(2), arg(3), arg(4), arg(5), static_cast<DType>(arg(6))};
}

void BM_AttentionCuda(benchmark::State& state) {
  const Shape shape = ShapeOf(state);
  const Way way = static_cast<Way>(state.range(7));
  const auto path = way == kPortable ? cuda::AttentionPath::kPortable : cuda::AttentionPath::kBest;
  CudaStream* stream = BenchStream(state, way == kInvariant);
  if (stream == nullptr) return;
  const DeviceBatch batch(shape, *stream);
  const bool decoding = shape.queries == 1;
  const double visible = (shape.context - (shape.queries - 1) / 2.0) * shape.queries;
  CudaWork work = {.dtype = shape.dtype};
  if (decoding) {
    work.bytes = shape.kv_bytes();
  } else {
    work.flops = 4.0 * visible * shape.sequences * static_cast<double>(shape.columns());
  }
  // About 3 ms.
  const double estimate = shape.kv_bytes() / 3e12 + work.flops / 4e14 + 4e-6;
  const int bodies = std::clamp(static_cast<int>(3e-3 / estimate), 2, 128);
  while (state.KeepRunning()) {
    work.seconds = CudaSeconds(*stream, bodies, [&](int i) { batch.Attend(path, i, *stream); });
    ReportCuda(state, *stream, work);
  }
  state.SetLabel(LabelOf(shape, way));
}

void Cases(benchmark::internal::Benchmark* bench) {
  const auto add = [&](std::vector<int64_t> shape, int64_t dtype, Way way) {
    shape.push_back(dtype);
    shape.push_back(way);
    bench->Args(shape);
  };
  constexpr int64_t kBf16 = static_cast<int64_t>(DType::kBFloat16);
  constexpr int64_t kFp32 = static_cast<int64_t>(DType::kFloat32);
  for (const auto& [sequences, context] : {std::pair{1, 128},
                                           {1, 1024},
                                           {1, 4096},
                                           {1, 32768},
                                           {8, 1024},
                                           {8, 8192},
                                           {64, 1024},
                                           {64, 4096},
                                           {256, 256},
                                           {256, 1024}}) {
    add({32, 8, 128, sequences, 1, context}, kBf16, kFast);
    if (int64_t{sequences} * context <= int64_t{256} * 1024) {
      add({32, 32, 128, sequences, 1, context}, kBf16, kFast);
    }
  }
  for (int64_t size : {64, 96, 256}) add({32, 8, size, 64, 1, 2048}, kBf16, kFast);
  for (int64_t group : {2, 8, 16}) add({8 * group, 8, 128, 64, 1, 2048}, kBf16, kFast);
  add({32, 8, 128, 1, 1, 4096}, kBf16, kInvariant);
  add({32, 8, 128, 64, 1, 4096}, kBf16, kInvariant);
  add({32, 8, 128, 64, 1, 1024}, kFp32, kFast);
  for (int64_t tokens : {512, 2048, 8192, 16384}) {
    add({32, 32, 128, 1, tokens, tokens}, kBf16, kFast);
    add({32, 32, 128, 1, tokens, tokens}, kBf16, kPortable);
    add({32, 8, 128, 1, tokens, tokens}, kBf16, kFast);
  }
  add({32, 8, 128, 1, 512, 16384}, kBf16, kFast);
  add({32, 8, 128, 16, 512, 512}, kBf16, kFast);
  for (int64_t size : {64, 96, 256}) add({32, 8, size, 1, 8192, 8192}, kBf16, kFast);
  add({32, 8, 128, 1, 2048, 2048}, kFp32, kFast);
}
BENCHMARK(BM_AttentionCuda)
    ->ArgNames({"q_heads", "kv_heads", "size", "sequences", "queries", "context", "dtype", "way"})
    ->Apply(Cases)
    ->UseManualTime()
    ->Iterations(1);

// args: sequences, queries of each, context.
void BM_RopeAppendKvCuda(benchmark::State& state) {
  CudaStream* stream = BenchStream(state);
  if (stream == nullptr) return;
  const Shape shape = {32,
                       8,
                       128,
                       static_cast<int32_t>(state.range(0)),
                       static_cast<int32_t>(state.range(1)),
                       static_cast<int32_t>(state.range(1)),
                       DType::kBFloat16};
  const DeviceBatch batch(shape, *stream);
  const int64_t rows = batch.rows();
  const int64_t columns = int64_t{48} * 128;
  const DeviceMemory rope_rows =
      DeviceBatch::Upload(std::vector<int32_t>(static_cast<size_t>(rows), 1), *stream);
  const DeviceMemory cos_sin =
      DeviceMemory::Allocate(int64_t{2} * 128 * 4);  // zeros: queries stay finite
  CARAVAN_CHECK(2 * rows * columns <= batch.memory().q.bytes(), "too many rows");
  while (state.KeepRunning()) {
    const double seconds = CudaSeconds(*stream, 32, [&](int i) {
      RopeAppendKv(DenseMatrix(batch.memory().q.data(), shape.dtype, rows, columns),
                   DenseMatrix(static_cast<const void*>(cos_sin.data()), DType::kFloat32, 2, 128),
                   {rope_rows.as<int32_t>(), static_cast<size_t>(rows)}, batch.Part(i), batch.kv(),
                   DeviceStream::Cuda(*stream));
    });
    ReportCuda(state, *stream,
               {.seconds = seconds, .bytes = 2.0 * 2 * static_cast<double>(rows * columns)});
  }
}
BENCHMARK(BM_RopeAppendKvCuda)
    ->ArgNames({"sequences", "queries"})
    ->Args({1, 1})
    ->Args({64, 1})
    ->Args({256, 1})
    ->Args({1, 8192})
    ->UseManualTime()
    ->Iterations(1);

void BM_CopyKvBlocksCuda(benchmark::State& state) {
  CudaStream* stream = BenchStream(state);
  if (stream == nullptr) return;
  const DeviceBatch batch({32, 8, 128, 1, 1, 16, DType::kBFloat16}, *stream);
  const int64_t count = state.range(0);
  std::vector<int32_t> pairs;
  for (int32_t i = 0; i < count; ++i) {
    pairs.push_back(i);
    pairs.push_back(1000 + i);
  }
  const DeviceMemory copies = DeviceBatch::Upload(pairs, *stream);
  while (state.KeepRunning()) {
    const double seconds = CudaSeconds(*stream, 16, [&](int) {
      CopyKvBlocks(batch.kv(), {copies.as<BlockCopy>(), static_cast<size_t>(count)},
                   DeviceStream::Cuda(*stream));
    });
    ReportCuda(state, *stream,
               {.seconds = seconds,
                .bytes = 2.0 * 2 * 2 * kBlockTokens * 8 * 128 * static_cast<double>(count)});
  }
}
BENCHMARK(BM_CopyKvBlocksCuda)->ArgName("blocks")->Arg(1)->Arg(64)->UseManualTime()->Iterations(1);

}  // namespace
}  // namespace caravan

#endif
