// Two kernels, with the same grid whatever the parameters of the rows, so that graphs hold them.
// The first reads each logit once and reduces slices of a row, as many as the device is wide; the
// second has a block for each row, merges its slices, and looks at the row again only where a
// filter can't be decided by its greatest logits. Nothing depends on the number of rows, nor on
// other rows.
#include <algorithm>

#include "kernels/device/cuda_check.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/sampling/block_reduce.cuh"
#include "kernels/device/sampling/draw.cuh"
#include "kernels/device/sampling/filter.cuh"
#include "kernels/device/sampling/plan.cuh"
#include "kernels/device/sampling/row_logits.cuh"
#include "kernels/device/sampling/select_top.cuh"
#include "kernels/sampling.h"

namespace caravan::cuda {
namespace {

using Slice = Part<kScanThreads, kScanGroups>;
constexpr int kFinishGroups = 2;
constexpr int kListKeys = kSliceIds / 2;  // of 64 bits, in a buffer of kSliceIds words

__device__ float SumOfWeights(const Slice& slice, float max) {
  float sum = 0;
  if (max > kImpossible) {
#pragma unroll
    for (const float value : slice.values) sum += expf(value - max);
  }
  return ReduceBlock<kScanThreads>(sum, 0.0f, Sum());
}

__device__ Best FindBest(const Slice& slice) {
  Best best = kNoBest;
#pragma unroll
  for (int i = 0; i < Slice::kSize; ++i) {  // ids rise, so that the first of equals stays
    if (slice.values[i] > best.value) best = {slice.values[i], slice.IdOf(i)};
  }
  return ReduceBlock<kScanThreads>(best, kNoBest, BetterBest());
}

// Fills list[0, k).
__device__ void ListTop(const Slice& slice, int k, float* buffer, TokenLogprob* list) {
  const int n = SelectTop<kScanThreads, kListKeys>(
      slice.values, [&](int i) { return slice.IdOf(i); }, k, reinterpret_cast<uint64_t*>(buffer),
      [&](int rank, float value, int32_t id) {
        list[rank] = {id, value};
      });
  for (int i = n + static_cast<int>(threadIdx.x); i < k; i += kScanThreads) {
    list[i] = {-1, kImpossible};
  }
}

__device__ Drawn DrawFromSlice(const SamplingRow& row, const Slice& slice) {
  DrawScan scan(row);
#pragma unroll
  for (int g = 0; g < kScanGroups; ++g) {
    scan.OfferFour(slice.values + 4 * g, slice.GroupId(g));
    scan.Share();
  }
  return scan.Finish<kScanThreads>();
}

// A block for each slice of a row (x) and row (y): 16 KiB of logits stay in registers through all
// that has to be known of them, and a single row still spreads over many multiprocessors.
__global__ __launch_bounds__(kScanThreads) void ScanSlices(SampleArguments arguments) {
  __shared__ alignas(16) float buffer[kSliceIds];
  const int64_t r = blockIdx.y;
  const int slice_index = static_cast<int>(blockIdx.x);
  const SamplingRow& row = arguments.rows[r];
  if (row.skipped) return;
  const RowPlan plan(row, arguments);
  SlicePartial partial = {kImpossible, 0, kNoBest, 0, kNoDraw};
  Slice slice;
  slice.begin = slice_index * kSliceIds;
  slice.Load(arguments.logits, arguments.logits.row(r));
  if (plan.raw_sums) {
    partial.raw_max = FindBest(slice).value;
    partial.raw_sum = SumOfWeights(slice, partial.raw_max);
  }
  if (plan.raw_listed > 0) {
    ListTop(slice, plan.raw_listed, buffer, arguments.RawListOf(r, slice_index));
  }
  slice.Process(row, plan.temperature, buffer);
  if (plan.greedy || plan.filters || plan.sums) partial.best = FindBest(slice);
  if (plan.sums) partial.sum = SumOfWeights(slice, partial.best.value);
  if (plan.listed > 0) {
    ListTop(slice, plan.listed, buffer, arguments.ListOf(r, slice_index));
  }
  if (plan.draws) partial.drawn = DrawFromSlice(row, slice);
  if (threadIdx.x == 0) arguments.partials[r * arguments.slices + slice_index] = partial;
}

// A row's slices together.
struct RowSummary {
  float raw_max = kImpossible;
  double raw_sum = 0;
  Best best = kNoBest;
  double sum = 0;
  Drawn drawn = kNoDraw;
};

__device__ RowSummary MergeSlices(const SampleArguments& arguments, int64_t r,
                                  const RowPlan& plan) {
  SlicePartial mine = {kImpossible, 0, kNoBest, 0, kNoDraw};
  if (static_cast<int>(threadIdx.x) < arguments.slices) {
    mine = arguments.partials[r * arguments.slices + threadIdx.x];
  }
  const auto scaled = [](float sum, float from, float to) {
    return sum == 0 ? 0.0 : double{sum} * double{expf(from - to)};
  };
  RowSummary row;
  if (plan.raw_sums) {
    row.raw_max = ReduceBlock<kFinishThreads>(mine.raw_max, kImpossible, Max());
    row.raw_sum =
        ReduceBlock<kFinishThreads>(scaled(mine.raw_sum, mine.raw_max, row.raw_max), 0.0, Sum());
  }
  if (plan.greedy || plan.filters || plan.sums) {
    row.best = ReduceBlock<kFinishThreads>(mine.best, kNoBest, BetterBest());
  }
  if (plan.sums) {
    row.sum =
        ReduceBlock<kFinishThreads>(scaled(mine.sum, mine.best.value, row.best.value), 0.0, Sum());
  }
  if (plan.draws) row.drawn = ReduceBlock<kFinishThreads>(mine.drawn, kNoDraw, BetterDraw());
  return row;
}

// The k first of a row, from the k first of each slice, which lie `stride` apart.
template <typename Emit>
__device__ int MergeLists(const TokenLogprob* lists, int64_t stride, int slices, int k,
                          float* buffer, const Emit& emit) {
  float values[kFinishItems];
  int32_t ids[kFinishItems];
#pragma unroll
  for (int i = 0; i < kFinishItems; ++i) {
    const int entry = i * kFinishThreads + static_cast<int>(threadIdx.x);
    values[i] = kImpossible;
    ids[i] = -1;
    if (entry >= slices * k) continue;
    const TokenLogprob* listed = lists + entry / k * stride + entry % k;
    values[i] = listed->logprob;
    ids[i] = listed->token_id;
  }
  return SelectTop<kFinishThreads, kFinishThreads * kFinishItems>(
      values, [&](int i) { return ids[i]; }, k, reinterpret_cast<uint64_t*>(buffer), emit);
}

__device__ Drawn DrawKept(const SampleArguments& arguments, int64_t r, const RowPlan& plan,
                          const RowSummary& summary, const RowList& list, int listed,
                          float* buffer) {
  const SamplingRow& row = arguments.rows[r];
  Filter filter = {plan.top_k, row.top_p, row.min_p, summary.best.value, summary.sum};
  int n = listed;
  if (plan.top_k > 0) n = min(n, plan.top_k);
  const bool is_all = listed < plan.listed;  // else the list would be longer
  if (row.top_p < 1 && plan.top_k > 0) {
    if (plan.top_k <= n || is_all) {
      const int i = static_cast<int>(threadIdx.x);
      const double weight = i < n ? filter.Weight(list.logits[i]) : 0;
      filter.total = ReduceBlock<kFinishThreads>(weight, 0.0, Sum());
    } else {
      filter.total =
          WeighTopK<kFinishThreads, kFinishGroups>(arguments, r, plan.temperature, filter, buffer);
    }
  }
  const int kept = CountKept(filter, list, n, is_all);
  if (kept >= 0) return DrawFromList<kFinishThreads>(row, list, kept);
  return DrawByRejection<kFinishThreads, kFinishGroups>(arguments, r, plan, filter, summary.drawn,
                                                        buffer);
}

// A block for each row: what is left is little where the row's list decides, and else reads of the
// row by a whole multiprocessor.
__global__ __launch_bounds__(kFinishThreads) void FinishRows(SampleArguments arguments) {
  __shared__ alignas(16) float buffer[2 * kFinishThreads * kFinishItems];
  static_assert(Part<kFinishThreads, kFinishGroups>::kIds <= 2 * kFinishThreads * kFinishItems);
  __shared__ RowList list;
  const int64_t r = blockIdx.x;
  const SamplingRow& row = arguments.rows[r];
  SamplingOutput* output = arguments.outputs + r;
  if (row.skipped) {
    if (threadIdx.x == 0) output->token_id = -1;
    return;
  }
  const RowPlan plan(row, arguments);
  const RowSummary summary = MergeSlices(arguments, r, plan);
  const bool raw = plan.raw_sums;
  const double max = double{raw ? summary.raw_max : summary.best.value};
  const double log_sum =
      max == double{kImpossible} ? 0 : max + log(raw ? summary.raw_sum : summary.sum);
  const auto report = [&](int rank, float value, int32_t id) {
    output->top[rank] = {id, static_cast<float>(double{value} - log_sum)};
  };
  int num_top = 0;
  if (plan.raw_listed > 0) {
    num_top = MergeLists(arguments.RawListOf(r, 0), kMaxTopLogprobs, arguments.slices,
                         plan.raw_listed, buffer, report);
  }
  int listed = 0;
  if (plan.listed > 0) {
    const int reported = raw ? 0 : min(row.num_logprobs, kMaxTopLogprobs);
    listed = MergeLists(arguments.ListOf(r, 0), arguments.list_capacity, arguments.slices,
                        plan.listed, buffer, [&](int rank, float value, int32_t id) {
                          list.logits[rank] = value;
                          list.ids[rank] = id;
                          if (rank < reported) report(rank, value, id);
                        });
    if (reported > 0) num_top = min(listed, reported);
  }
  Drawn drawn = summary.drawn;
  if (plan.greedy) drawn = {summary.best.value, summary.best.id, 0};
  if (plan.filters && listed > 0) {
    drawn = DrawKept(arguments, r, plan, summary, list, listed, buffer);
  }
  if (threadIdx.x != 0) return;
  if (drawn.logit == kImpossible) drawn = {kImpossible, 0, 0};
  const float reported = raw ? Sanitize(arguments.logits.row(r)[drawn.id]) : drawn.logit;
  output->token_id = drawn.id;
  output->logprob = row.num_logprobs < 0 ? 0 : static_cast<float>(double{reported} - log_sum);
  output->num_top = num_top;
}

// Places arrays behind one another.
class Partition {
 public:
  explicit Partition(void* memory) : next_(static_cast<std::byte*>(memory)) {}
  template <typename T>
  T* Take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return taken;
  }

 private:
  std::byte* next_;
};

}  // namespace

void Sample(MatrixView logits, int32_t vocab_size, std::span<const SamplingRow> rows,
            std::span<SamplingOutput> outputs, CudaStream& stream) {
  const int32_t slices = (vocab_size + kSliceIds - 1) / kSliceIds;
  const int32_t capacity = std::min(kMostListed, kFinishThreads * kFinishItems / slices);
  CARAVAN_CHECK(capacity >= kMaxTopLogprobs, "a vocabulary of ", vocab_size);
  const int64_t row_bytes = slices * (int64_t{sizeof(SlicePartial)} +
                                      (capacity + kMaxTopLogprobs) * int64_t{sizeof(TokenLogprob)});
  const int64_t most_rows = std::min<int64_t>((stream.workspace_bytes() - 64) / row_bytes, 65535);
  CARAVAN_CHECK(most_rows > 0, stream.workspace_bytes(), " bytes of workspace");
  for (int64_t first = 0; first < logits.rows; first += most_rows) {
    const int64_t n = std::min(most_rows, logits.rows - first);
    Partition workspace(stream.workspace());
    SampleArguments arguments = {};
    arguments.logits = {
        static_cast<const float*>(logits.row(first)), logits.row_stride, vocab_size,
        reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && logits.row_stride % 4 == 0};
    arguments.rows = rows.data() + first;
    arguments.outputs = outputs.data() + first;
    arguments.slices = slices;
    arguments.list_capacity = capacity;
    arguments.partials = workspace.Take<SlicePartial>(n * slices);
    arguments.lists = workspace.Take<TokenLogprob>(n * slices * capacity);
    arguments.raw_lists = workspace.Take<TokenLogprob>(n * slices * kMaxTopLogprobs);
    const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(n));
    ScanSlices<<<grid, kScanThreads, 0, stream.handle()>>>(arguments);
    CARAVAN_CUDA_CHECK(cudaGetLastError());
    FinishRows<<<static_cast<unsigned>(n), kFinishThreads, 0, stream.handle()>>>(arguments);
    CARAVAN_CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace caravan::cuda
