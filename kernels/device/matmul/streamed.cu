#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/device/launch.cuh"
#include "kernels/device/matmul/paths.h"
#include "kernels/device/matmul/streamed.cuh"

namespace caravan::cuda {
namespace {

constexpr int kMostGroups = 4;  // a box has up to 256 rows
constexpr int kMostSplits = 4;
constexpr int kMostSharedBytes = 227 * 1024;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tokens of a launch, as wgmma has them.
int PaddedTokens(int64_t tokens) {
  return tokens <= 8 ? 8 : tokens <= 16 ? 16 : tokens <= 32 ? 32 : 64;
}

// How shared memory is divided.
struct StreamedMemory {
  int weight_slots;
  int staging;  // bytes
  int bytes;    // in all

  StreamedMemory(const StreamedPlan& plan, int tokens, int64_t block_chunks) {
    const int weight_bytes = plan.panels * plan.groups * kGroupBytes;
    const int input_bytes = plan.panels * tokens * 2 * kDepth;
    const int fragments = (tokens / 8 + plan.splits - 1) / plan.splits;
    staging = (plan.splits - 1) * fragments * plan.groups * kGroupThreads * 16;
    // The word that says that the predecessor has ended, and what aligns the rings.
    const int others = plan.input_slots * (input_bytes + 16) + staging + 16 + 1024;
    const int64_t fit = (plan.shared_bytes - others) / (weight_bytes + 16);
    weight_slots =
        static_cast<int>(std::clamp<int64_t>(fit, 2, std::max<int64_t>(2, block_chunks)));
    bytes = weight_slots * (weight_bytes + 16) + others;
  }
};

// Inputs come from the L2 cache, and are asked for when the predecessor has ended: so many at once
// that weights which are there by then don't wait for them.
int InputSlots(int panels, int tokens) {
  return std::clamp(48 * 1024 / (panels * tokens * 2 * kDepth), 4, 16);
}

template <typename T, int kTokens>
void Launch(const MatmulArgs& args, const StreamedPlan& plan, CudaStream& stream) {
  const auto kernel = StreamedKernel<T, kTokens>;
  const bool gated = args.weight.out_features != args.out.cols;
  const int rows = plan.groups * kGroupRows;
  const int64_t chunks = DivideUp(args.x.cols, plan.panels * kDepth);
  const int64_t tiles = DivideUp(args.weight.out_features, rows);
  const StreamedMemory memory(plan, kTokens,
                              plan.splits > 1 ? DivideUp(chunks, plan.splits) : chunks * tiles);
  CARAVAN_CHECK(memory.bytes <= kMostSharedBytes, memory.bytes, " bytes of shared memory");
  CARAVAN_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostSharedBytes));
  const int64_t blocks = plan.splits > 1
                             ? tiles * plan.splits
                             : std::min<int64_t>(tiles, stream.device().num_multiprocessors);
  const StreamedArgs kernel_args = {
      .tile_chunks = static_cast<int>(chunks),
      .tile_rows = gated ? rows / 2 : rows,
      .tiles = static_cast<int>(tiles),
      .splits = plan.splits,
      .groups = plan.groups,
      .panels = plan.panels,
      .weight_slots = memory.weight_slots,
      .input_slots = plan.input_slots,
      .pace = plan.pace == 0 ? 0 : plan.panels * plan.groups * kGroupBytes / plan.pace,
      .staging = memory.staging,
      .tokens = static_cast<int>(args.x.rows),
      .features = args.out.cols,
      .gated = gated,
      .bias = args.bias.data,
      .bias_dtype = args.bias.dtype,
      .out = args.out.data,
      .out_dtype = args.out.dtype,
      .out_stride = args.out.row_stride,
      .pairs =
          IsAligned16(args.out.data) && args.out.cols % 2 == 0 && args.out.row_stride % 2 == 0};
  const ConstMatrixView weight =
      DenseMatrix(args.weight.data, args.weight.dtype, args.weight.out_features, args.x.cols);
  LaunchDependent(kernel,
                  {.grid = dim3(static_cast<unsigned>(blocks)),
                   .threads = plan.groups * kGroupThreads + kProducers,
                   .shared_bytes = static_cast<size_t>(memory.bytes),
                   .cluster = plan.splits},
                  stream, kernel_args,
                  gated ? MakeHalvesTensorMap(weight, rows) : MakeTensorMap(weight, rows),
                  MakeTensorMap(args.x, kTokens));
}

template <typename T>
void Launch(const MatmulArgs& args, const StreamedPlan& plan, CudaStream& stream) {
  switch (PaddedTokens(args.x.rows)) {
    case 8:
      return Launch<T, 8>(args, plan, stream);
    case 16:
      return Launch<T, 16>(args, plan, stream);
    case 32:
      return Launch<T, 32>(args, plan, stream);
    default:
      return Launch<T, 64>(args, plan, stream);
  }
}

// Points for a way to divide the product, fitted to what an H100 measured: 1 where all blocks read
// equally much at the memory's speed and nothing else takes time.
double Score(const MatmulArgs& args, int groups, int splits, int64_t multiprocessors) {
  const int64_t tiles = DivideUp(args.weight.out_features, groups * kGroupRows);
  const double waves = static_cast<double>(tiles * splits) / static_cast<double>(multiprocessors);
  const double busy =
      waves <= 1 ? std::sqrt(std::min(1.0, waves / 0.85)) : waves / std::ceil(waves);
  // A block reads its tokens' inputs once for all of its rows.
  const double batch = static_cast<double>(args.x.rows) / kMaxStreamedTokens;
  const double inputs = 0.28 * batch / groups;
  // Sums over a cluster: microseconds, of those that reading takes at 3 TB/s.
  const double reading =
      2e-6 / 3 * static_cast<double>(args.weight.out_features) * static_cast<double>(args.x.cols);
  const double sums = splits == 1 ? 0 : (0.3 + 2 * batch) * (splits + 2) / 4 / reading;
  return busy / (1 + inputs) - sums;
}

}  // namespace

StreamedPlan PlanStreamed(const MatmulArgs& args, const CudaStream& stream) {
  const int64_t multiprocessors = stream.device().num_multiprocessors;
  const int tokens = PaddedTokens(args.x.rows);
  StreamedPlan best;
  double best_score = -std::numeric_limits<double>::infinity();
  for (int groups = 1; groups <= kMostGroups; ++groups) {
    const int64_t tiles = DivideUp(args.weight.out_features, groups * kGroupRows);
    const int panels = groups <= 2 && args.x.cols > kDepth ? 2 : 1;
    const int64_t chunks = DivideUp(args.x.cols, panels * kDepth);
    for (int splits = 1; splits <= kMostSplits; splits *= 2) {
      const int64_t blocks = tiles * splits;
      if (splits > 1 && (chunks < 2 * splits || blocks > multiprocessors)) continue;
      if (splits > 2 && blocks > 3 * multiprocessors / 4) continue;  // clusters don't fit anywhere
      const StreamedPlan plan = {.groups = groups,
                                 .splits = splits,
                                 .panels = panels,
                                 .input_slots = InputSlots(panels, tokens)};
      if (StreamedMemory(plan, tokens, chunks).bytes > kMostSharedBytes) continue;
      const double score = Score(args, groups, splits, multiprocessors);
      if (score <= best_score) continue;
      best_score = score;
      best = plan;
    }
  }
  return best;
}

void MultiplyStreamed(const MatmulArgs& args, const StreamedPlan& plan, CudaStream& stream) {
  if (args.x.dtype == DType::kFloat16) {
    Launch<__half>(args, plan, stream);
  } else {
    Launch<__nv_bfloat16>(args, plan, stream);
  }
}

}  // namespace caravan::cuda
