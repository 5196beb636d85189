// One step through decoder layers of LLaMA 7B on the GPU: how well kernels overlap where each needs
// the one before it. Layers are in one graph, each with weights and KV of its own.
#ifdef CARAVAN_HAS_CUDA

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/matmul/paths.h"
#include "kernels/dummy_fill.h"
#include "kernels/paged_attention.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_append_kv.h"
#include "kernels/swiglu.h"
#include "tests/kernels/cuda_ceiling.h"

namespace caravan {
namespace {

constexpr DType kType = DType::kFloat16;
constexpr int64_t kHidden = 4096;
constexpr int64_t kMiddle = 11008;
constexpr int32_t kHeads = 32;
constexpr int32_t kHeadSize = 128;
constexpr int32_t kBlockTokens = 16;
constexpr int64_t kParameters = 4 * kHidden * kHidden + 3 * kHidden * kMiddle;
constexpr int64_t kLayers = 4;                    // beyond the L2 cache together
constexpr int64_t kPoolBytes = int64_t{1} << 30;  // keys, and as many values
constexpr int64_t kMostTokens = 256;
constexpr int64_t kPlaces = 16;  // of kHidden activations a token

enum Way : int64_t { kMatmul, kInvariant, kCublas };

DeviceMemory Random(int64_t elements, uint64_t key, CudaStream& stream) {
  DeviceMemory memory = DeviceMemory::Allocate(2 * elements);
  CARAVAN_CHECK(memory.data() != nullptr, "too little memory on the GPU");
  FillDummy({.key = key}, DenseMatrix(memory.data(), kType, 1, elements),
            DeviceStream::Cuda(stream));
  return memory;
}

template <typename T>
DeviceMemory Upload(const std::vector<T>& values, CudaStream& stream) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  DeviceMemory memory = DeviceMemory::Allocate(bytes);
  CopyToDevice(memory.data(), values.data(), bytes, stream);
  stream.Synchronize();
  return memory;
}

// Random, since zeros go faster. Kept for all benchmarks.
struct Memory {
  explicit Memory(CudaStream& stream)
      : weights(Random(kLayers * kParameters, 1, stream)),
        activations(Random(kPlaces * kMostTokens * kHidden, 2, stream)),
        keys(Random(kPoolBytes / 2, 3, stream)),
        values(Random(kPoolBytes / 2, 4, stream)) {
    stream.Synchronize();
  }
  DeviceMemory weights;
  DeviceMemory activations;
  DeviceMemory keys;
  DeviceMemory values;
};

const Memory& MemoryOf(CudaStream& stream) {
  static const auto* memory = new Memory(stream);
  return *memory;
}

// `tokens` sequences at the same context.
class Layer {
 public:
  Layer(int64_t tokens, int32_t context, Way way, CudaStream& stream)
      : stream_(stream),
        memory_(MemoryOf(stream)),
        tokens_(tokens),
        context_(context),
        way_(way),
        blocks_((context + kBlockTokens - 1) / kBlockTokens),
        kv_{.dtype = kType,
            .keys = memory_.keys.data(),
            .values = memory_.values.data(),
            .num_blocks = kPoolBytes / (int64_t{kBlockTokens} * kHidden * 2),
            .block_tokens = kBlockTokens,
            .kv_heads = kHeads,
            .head_size = kHeadSize} {
    CARAVAN_CHECK(tokens <= kMostTokens && tokens * blocks_ <= kv_.num_blocks);
    std::vector<int32_t> table(static_cast<size_t>(kv_.num_blocks));
    for (size_t i = 0; i < table.size(); ++i) {
      table[i] = static_cast<int32_t>(i * 7919 % table.size());  // a prime: each block once
    }
    std::vector<int32_t> starts;
    for (int32_t s = 0; s <= tokens; ++s) starts.push_back(s);
    std::vector<float> cos_sin(kHeadSize, 0.0f);
    for (int i = 0; i < kHeadSize / 2; ++i) cos_sin[i] = 1.0f;
    const auto rows = static_cast<size_t>(tokens);
    table_ = Upload(table, stream);
    starts_ = Upload(starts, stream);
    contexts_ = Upload(std::vector<int32_t>(rows, context), stream);
    rope_rows_ = Upload(std::vector<int32_t>(rows, 0), stream);
    cos_sin_ = Upload(cos_sin, stream);
  }

  double bytes() const {
    return 2.0 * kParameters + 2.0 * 2 * static_cast<double>(tokens_ * context_ * kHidden);
  }

  // `i` numbers the layers. As LlamaModel::Forward does on one rank.
  void Run(int i) const {
    const DeviceStream stream = DeviceStream::Cuda(stream_);
    int64_t weight = i % kLayers * kParameters;
    const auto multiply = [&](ConstMatrixView x, MatrixView out) {
      Multiply({x, WeightAt(weight, out.cols, x.cols), {}, out});
      weight += x.cols * out.cols;
    };
    const ConstVectorView scale = {memory_.activations.data(), kType, kHidden};
    const MatrixView residual = At(0, kHidden);
    const MatrixView normed = At(1, kHidden);
    const MatrixView partial = At(2, kHidden);
    const MatrixView qkv = At(3, 3 * kHidden);
    const MatrixView attended = At(6, kHidden);
    const MatrixView gate_up = At(7, 2 * kMiddle);
    const MatrixView activated = At(13, kMiddle);
    const PagedBatch batch = BatchOf(i);
    AddRmsNorm(partial, scale, 1e-5f, residual, normed, stream);
    multiply(normed, qkv);
    RopeAppendKv(
        qkv, DenseMatrix(static_cast<const void*>(cos_sin_.data()), DType::kFloat32, 1, kHeadSize),
        {rope_rows_.as<int32_t>(), static_cast<size_t>(tokens_)}, batch, kv_, stream);
    PagedAttention(qkv.Columns(0, kHidden), kv_, batch, 0.088f, attended, stream);
    multiply(attended, partial);
    AddRmsNorm(partial, scale, 1e-5f, residual, normed, stream);
    if (way_ == kCublas) {
      multiply(normed, gate_up);
      SwiGlu(gate_up, activated, stream);
    } else {
      MatmulSwiGlu({.x = normed,
                    .weight = WeightAt(weight, 2 * kMiddle, kHidden),
                    .bias = {},
                    .gate_up = gate_up,
                    .out = activated},
                   stream);
      weight += 2 * kMiddle * kHidden;
    }
    multiply(activated, partial);
  }

 private:
  void Multiply(const cuda::MatmulArgs& args) const {
    if (way_ == kCublas) return MultiplyCublas(args, stream_);
    Matmul(args.x, args.weight, args.bias, args.out, DeviceStream::Cuda(stream_));
  }

  WeightView WeightAt(int64_t first, int64_t out_features, int64_t in_features) const {
    return {.dtype = kType,
            .data = memory_.weights.as<char>() + first * 2,
            .out_features = out_features,
            .in_features = in_features};
  }

  // Places of kHidden columns in the memory for activations.
  MatrixView At(int64_t place, int64_t cols) const {
    return DenseMatrix(memory_.activations.as<char>() + place * tokens_ * kHidden * 2, kType,
                       tokens_, cols);
  }

  PagedBatch BatchOf(int i) const {
    const auto n = static_cast<size_t>(tokens_);
    const int64_t parts = kv_.num_blocks / (blocks_ * tokens_);
    return {.query_starts = {starts_.as<int32_t>(), n + 1},
            .context_lengths = {contexts_.as<int32_t>(), n},
            .block_tables = table_.as<int32_t>() + i % parts * blocks_ * tokens_,
            .block_table_stride = blocks_,
            .num_decodes = static_cast<int32_t>(tokens_),
            .max_decode_context = context_,
            .max_prefill_context = context_};
  }

  CudaStream& stream_;
  const Memory& memory_;
  int64_t tokens_;
  int32_t context_;
  Way way_;
  int64_t blocks_;  // of a sequence
  KvCacheView kv_;
  DeviceMemory table_;
  DeviceMemory starts_;
  DeviceMemory contexts_;
  DeviceMemory rope_rows_;
  DeviceMemory cos_sin_;
};

// args: tokens, context, way. read_% is that of weights and KV.
void BM_DecodeLayerCuda(benchmark::State& state) {
  const Way way = static_cast<Way>(state.range(2));
  CudaStream* stream = BenchStream(state, way == kInvariant);
  if (stream == nullptr) return;
  const Layer layer(state.range(0), static_cast<int32_t>(state.range(1)), way, *stream);
  while (state.KeepRunning()) {
    const double seconds = CudaSeconds(*stream, 32, [&](int i) { layer.Run(i); });
    ReportCuda(state, *stream, {.seconds = seconds, .bytes = layer.bytes()});
  }
  constexpr const char* kNames[] = {"matmul", "invariant", "cublas"};
  state.SetLabel(kNames[way]);
}
BENCHMARK(BM_DecodeLayerCuda)
    ->ArgNames({"tokens", "context", "way"})
    ->ArgsProduct({{1, 2, 4, 8, 16, 32, 64, 128, 256}, {192}, {kMatmul, kInvariant, kCublas}})
    ->UseManualTime()
    ->Iterations(1);

}  // namespace
}  // namespace caravan

#endif  // CARAVAN_HAS_CUDA
