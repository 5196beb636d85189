// One launch (for each 4,096 rows), with the same grid whatever the parameters of the rows, so that
// graphs hold it. A block reads a slice of a row once and reduces it; the last block of a row to
// have done so merges the slices, and looks at the row again only where a filter can't be decided
// by its greatest logits. Nothing depends on which block is the last, on the number of rows, nor on
// other rows.
#include <algorithm>

#include "kernels/device/cuda_check.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/sampling/block_reduce.cuh"
#include "kernels/device/sampling/draw.cuh"
#include "kernels/device/sampling/filter.cuh"
#include "kernels/device/sampling/float_key.cuh"
#include "kernels/device/sampling/plan.cuh"
#include "kernels/device/sampling/row_logits.cuh"
#include "kernels/device/sampling/select_top.cuh"
#include "kernels/sampling.h"

namespace caravan::cuda {
namespace {

constexpr int kBlocksAtOnce = 4;  // of a multiprocessor: loads of some hide work of others
constexpr float kGreatestUndoubted = 1e20f;  // far below what a temperature leaves of FLT_MAX

// A block's shared memory: for its slice and, where it is the last of its row, then for the row.
struct alignas(16) Memory {
  float words[2 * kSliceIds];
  union {
    uint64_t keys[kMostRanked];       // of SelectTop
    uint16_t waiting[kSliceIds / 4];  // of DrawFromSlice
  };
  RowList list;

  __device__ float* slice() { return words; }
  __device__ float* buffer() { return words + kSliceIds; }  // of Part::Process
  static_assert(sizeof(words) == RowItems::kBytes);
  __device__ float* items() { return words; }  // in place of both
};

// A slice's logits in shared memory: registers are for the work, of which there is a sequence. A
// thread reads the groups of four that it wrote itself, unless it says otherwise.
class Slice {
 public:
  __device__ Slice(float* memory, int32_t begin)
      : memory_(reinterpret_cast<Four*>(memory)), begin_(begin) {}

  __device__ void Put(const SlicePart& part) {
#pragma unroll
    for (int g = 0; g < kSampleGroups; ++g) memory_[IndexOf(g)] = part.fours[g];
  }
  __device__ void Get(SlicePart* part) const {
#pragma unroll
    for (int g = 0; g < kSampleGroups; ++g) part->fours[g] = memory_[IndexOf(g)];
  }
  __device__ float value(int i) const { return memory_[IndexOf(i / 4)].logits[i % 4]; }
  __device__ int32_t id(int i) const { return IdAt(IndexOf(i / 4)) + i % 4; }

  // Groups of all threads, in order of ids.
  __device__ static int IndexOf(int g) {
    return g * kSampleThreads + static_cast<int>(threadIdx.x);
  }
  __device__ const Four& at(int index) const { return memory_[index]; }
  __device__ int32_t IdAt(int index) const { return begin_ + index * 4; }

 private:
  Four* memory_;
  int32_t begin_;
};

__device__ float SumOfWeights(const Slice& slice, float max) {
  float sum = 0;
  if (max > kImpossible) {
#pragma unroll
    for (int i = 0; i < SlicePart::kSize; ++i) sum += expf(slice.value(i) - max);
  }
  return ReduceBlock<kSampleThreads>(sum, 0.0f, Sum());
}

__device__ Best FindBest(const Slice& slice) {
  Best best = kNoBest;
#pragma unroll
  for (int i = 0; i < SlicePart::kSize; ++i) {  // ids rise, so that the first of equals stays
    if (slice.value(i) > best.value) best = {slice.value(i), slice.id(i)};
  }
  return ReduceWarps<kSampleThreads>(best, kNoBest, WarpBest);
}

// Fills list[0, k).
__device__ void ListTop(const Slice& slice, int k, uint64_t* keys, TokenLogprob* list) {
  const auto value_of = [&](int i) { return slice.value(i); };
  const auto id_of = [&](int i) { return slice.id(i); };
  const int n = SelectTop<kSampleThreads>(SlicePart::kSize, value_of, id_of, k, keys,
                                          [&](int rank, float value, int32_t id) {
                                            list[rank] = {id, value};
                                          });
  for (int i = n + static_cast<int>(threadIdx.x); i < k; i += kSampleThreads) {
    list[i] = {-1, kImpossible};
  }
}

// Each warp first collects its groups of four that could win, then works at 32 of them at a time:
// where logits are spread, most could not, but few warps are without any.
__device__ Candidate DrawFromSlice(const SamplingRow& row, const Slice& slice, float temperature,
                                   uint16_t* waiting) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint16_t* mine = waiting + (static_cast<int>(threadIdx.x) - lane) * kSampleGroups;
  DrawScan scan(row, temperature);
  float tops[kSampleGroups];
  float top = kImpossible;
#pragma unroll
  for (int g = 0; g < kSampleGroups; ++g) {
    tops[g] = slice.at(Slice::IndexOf(g)).max();
    top = fmaxf(top, tops[g]);
  }
  scan.Expect(WarpMax(top));
  int n = 0;
#pragma unroll
  for (int g = 0; g < kSampleGroups; ++g) {
    const bool could_win = scan.CouldWin(tops[g]);
    const uint32_t mask = __ballot_sync(0xffffffffu, could_win);
    if (could_win)
      mine[n + __popc(mask & ((1u << lane) - 1))] = static_cast<uint16_t>(Slice::IndexOf(g));
    n += __popc(mask);
  }
  __syncwarp();
#pragma unroll 1
  for (int first = 0; first < n; first += 32) {
    if (first + lane < n) {
      const int index = mine[first + lane];
      scan.OfferFour(slice.at(index), slice.IdAt(index));
    }
    scan.Share();
  }
  return BlockDraw<kSampleThreads>(scan.best());
}

// What is to be known of a slice, but for its draw. The lists are of all threads, `partial` of the
// first.
__device__ void ReduceSlice(const SampleArguments& arguments, const RowPlan& plan, int64_t r,
                            int slice_index, SlicePart part, Slice slice, Memory& memory,
                            SlicePartial* partial) {
  const SamplingRow& row = arguments.rows[r];
#pragma unroll 1
  for (int stage = 0; stage < 2; ++stage) {
    const bool raw = stage == 0;
    if (raw && !plan.raw_sums) continue;
    if (!raw) part.Process(row, plan.divides() ? plan.temperature : 1, memory.buffer());
    slice.Put(part);
    Best best = kNoBest;
    float sum = 0;
    if (raw ? plan.raw_sums : plan.wants_best()) best = FindBest(slice);
    if (raw ? plan.raw_sums : plan.sums) sum = SumOfWeights(slice, best.value);
    if (threadIdx.x == 0) (raw ? partial->raw : partial->processed) = {best, sum};
    const int listed = raw ? plan.raw_listed : plan.listed;
    if (listed > 0) {
      ListTop(slice, listed, memory.keys,
              raw ? arguments.RawListOf(r, slice_index) : arguments.ListOf(r, slice_index));
    }
    if (raw) slice.Get(&part);
  }
}

// A row's slices together.
struct RowSummary {
  Best raw_best;
  double raw_sum;
  Best best;
  double sum;
  Candidate drawn;
};

// Every warp does the same work, without waiting for others.
__device__ RowSummary MergeSlices(const SampleArguments& arguments, int64_t r, bool raw) {
  const SlicePartial* partials = arguments.partials + r * arguments.slices;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  RowSummary row = {kNoBest, 0, kNoBest, 0, kNoCandidate};
  for (int i = lane; i < arguments.slices; i += 32) {
    const SlicePartial& partial = partials[i];
    if (raw && partial.raw.best.value > row.raw_best.value) row.raw_best = partial.raw.best;
    if (partial.processed.best.value > row.best.value) row.best = partial.processed.best;
    row.drawn = BetterCandidate()(row.drawn, partial.drawn);
  }
  row.raw_best = WarpBest(row.raw_best);
  row.best = WarpBest(row.best);
  row.drawn = WarpDraw(row.drawn);
  const auto scaled = [](const SliceSum& slice, float max) {
    return slice.sum == 0 ? 0.0 : double{slice.sum} * double{expf(slice.best.value - max)};
  };
  for (int i = lane; i < arguments.slices; i += 32) {
    if (raw) row.raw_sum += scaled(partials[i].raw, row.raw_best.value);
    row.sum += scaled(partials[i].processed, row.best.value);
  }
  row.raw_sum = ReduceWarp(row.raw_sum, Sum());
  row.sum = ReduceWarp(row.sum, Sum());
  return row;
}

// The first k entries of each slice's list, which lie `stride` apart.
__device__ RowItems LoadItems(const TokenLogprob* lists, int64_t stride, int slices, int k,
                              float* memory) {
  const int num = slices * k;
  RowItems items(memory, num);
#pragma unroll 4
  for (int i = 0; i < items.each(); ++i) {
    // Shifted a little each time, so that a thread's items differ in rank.
    const int shifted = (static_cast<int>(threadIdx.x) + 37 * i) % kSampleThreads;
    const int entry = i * kSampleThreads + shifted;
    TokenLogprob listed = {-1, kImpossible};
    if (entry < num) listed = lists[entry / k * stride + entry % k];
    items.Put(i, listed.logprob, listed.token_id);
  }
  return items;
}

template <typename Emit>
__device__ int SelectItems(const RowItems& items, int k, uint64_t* keys, const Emit& emit) {
  return SelectTop<kSampleThreads>(
      items.each(), [&](int i) { return items.logit(i); }, [&](int i) { return items.id(i); }, k,
      keys, emit);
}

// The greatest of the slices' last entries: kImpossible if each slice lists all it has.
__device__ float CoverOf(const SampleArguments& arguments, int64_t r, const RowPlan& plan) {
  float cover = kImpossible;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < arguments.slices; i += 32) {
    cover = fmaxf(cover, arguments.ListOf(r, i)[plan.listed - 1].logprob);
  }
  return WarpMax(cover);
}

// Where a row's log probabilities go.
struct Report {
  SamplingOutput* output;
  double log_sum;
  int wanted;

  __device__ void operator()(int rank, float logit, int32_t id) const {
    if (rank < wanted) output->top[rank] = {id, static_cast<float>(double{logit} - log_sum)};
  }
};

// What is left of a row with lists of its processed logits; returns the draw, and sets how many of
// the report are there.
__device__ Candidate FinishLists(const SampleArguments& arguments, int64_t r, const RowPlan& plan,
                                 const RowSummary& summary, const Report& report, Memory& memory,
                                 int* num_top) {
  const SamplingRow& row = arguments.rows[r];
  const bool possible = summary.best.value != kImpossible;
  Filter filter = {plan.top_k, row.top_p, row.min_p, summary.best.value, summary.sum};
  float least = kImpossible;
  if (plan.filters && !plan.short_top_k && plan.top_k > 0 && row.top_p < 1 && possible) {
    const TopK top =
        WeighTopK(arguments, r, plan.temperature, plan.top_k, filter.max, memory.buffer());
    filter.total = top.weight;
    least = top.last;
  }
  const RowItems items = LoadItems(arguments.ListOf(r, 0), arguments.list_capacity,
                                   arguments.slices, plan.listed, memory.items());
  const int reported = plan.raw_sums ? 0 : report.wanted;
  const int merged = plan.short_top_k ? max(plan.top_k, reported) : reported;
  int n = 0;
  if (merged > 0) {
    n = SelectItems(items, merged, memory.keys, [&](int rank, float logit, int32_t id) {
      memory.list.logits[rank] = logit;
      memory.list.ids[rank] = id;
      if (reported > 0) report(rank, logit, id);
    });
  }
  if (reported > 0) *num_top = min(n, reported);
  if (!plan.filters || !possible) return summary.drawn;
  if (plan.short_top_k) {
    return DrawFromList<kSampleThreads>(row, filter, memory.list, min(n, plan.top_k));
  }
  Candidate drawn = summary.drawn;
  if (DrawFromItems<kSampleThreads>(row, filter, items, CoverOf(arguments, r, plan), &drawn)) {
    return drawn;
  }
  return DrawFromRow(arguments, r, plan.temperature, filter, summary.drawn, least, memory.buffer());
}

// The row from what its slices have left. Called by the first warp of the row's last block at
// least, and by all of it if the row has lists.
__device__ void FinishRow(const SampleArguments& arguments, int64_t r, const RowPlan& plan,
                          Memory& memory) {
  const SamplingRow& row = arguments.rows[r];
  SamplingOutput* output = arguments.outputs + r;
  const bool raw = plan.raw_sums;
  const RowSummary summary = MergeSlices(arguments, r, raw);
  const float max = raw ? summary.raw_best.value : summary.best.value;
  double log_sum = 0;
  if (row.num_logprobs >= 0 && max != kImpossible) {
    log_sum = double{max} + log(raw ? summary.raw_sum : summary.sum);
  }
  const Report report = {output, log_sum,
                         raw ? plan.raw_listed : min(row.num_logprobs, kMaxTopLogprobs)};
  int num_top = 0;
  if (plan.raw_listed > 0) {
    const RowItems items = LoadItems(arguments.RawListOf(r, 0), kMaxTopLogprobs, arguments.slices,
                                     plan.raw_listed, memory.items());
    num_top = SelectItems(items, plan.raw_listed, memory.keys, report);
  }
  Candidate drawn = summary.drawn;
  if (plan.listed > 0) {
    drawn = FinishLists(arguments, r, plan, summary, report, memory, &num_top);
  }
  if (threadIdx.x != 0) return;
  int32_t id = plan.greedy ? summary.best.id : drawn.id;
  float logit = plan.greedy ? summary.best.value : drawn.logit;
  if (logit == kImpossible) id = 0;  // none is possible
  // What the model gave is read where it is reported, or the logit that was drawn from leaves
  // doubt.
  const bool doubtful = !(fabsf(logit) < kGreatestUndoubted);
  const float own = raw || doubtful ? Sanitize(arguments.logits.row(r)[id]) : logit;
  if (raw) logit = own;
  output->token_id = id;
  output->finite = IsFinite(own);
  output->logprob = row.num_logprobs < 0 ? 0 : static_cast<float>(double{logit} - log_sum);
  output->num_top = num_top;
}

// A block for each slice of a row (x) and row (y): 16 KiB of logits stay in the multiprocessor
// through all that has to be known of them, and a single row still spreads over many.
__global__ __launch_bounds__(kSampleThreads, kBlocksAtOnce) void SampleRows(
    const __grid_constant__ SampleArguments arguments) {
  __shared__ Memory memory;
  const int64_t r = blockIdx.y;
  const int slice_index = static_cast<int>(blockIdx.x);
  const SamplingRow& row = arguments.rows[r];
  ReleaseSuccessor();
  WaitForPredecessor();
  if (row.skipped) {
    if (slice_index == 0 && threadIdx.x == 0) arguments.outputs[r].token_id = -1;
    return;
  }
  const RowPlan plan(row, arguments);
  SlicePartial* partial = &arguments.partials[r * arguments.slices + slice_index];
  SlicePart part;
  part.begin = slice_index * kSliceIds;
  part.Load(arguments.logits, arguments.logits.row(r));
  const Slice slice(memory.slice(), part.begin);
  ReduceSlice(arguments, plan, r, slice_index, part, slice, memory, partial);
  Candidate drawn = kNoCandidate;
  if (plan.draws_from_all()) {
    drawn = DrawFromSlice(row, slice, plan.divides() ? 1 : plan.temperature, memory.waiting);
  }
  if (threadIdx.x == 0) partial->drawn = drawn;
  bool last = false;
  if (plan.has_lists()) {
    __syncthreads();
    if (threadIdx.x == 0) last = ArrivesLast(&arguments.arrivals[r], arguments.slices);
    last = __syncthreads_or(last) != 0;
  } else {  // the first warp is enough
    if (threadIdx.x >= 32) return;
    if (threadIdx.x == 0) last = ArrivesLast(&arguments.arrivals[r], arguments.slices);
    last = __any_sync(0xffffffffu, last) != 0;
    __syncwarp();  // what the others have left is seen by all lanes
  }
  if (last) FinishRow(arguments, r, plan, memory);
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
  const int32_t capacity = std::min(kMostListed, kMostItems / slices);
  CARAVAN_CHECK(capacity >= kMaxTopLogprobs, "a vocabulary of ", vocab_size);
  const int64_t row_bytes = slices * (int64_t{sizeof(SlicePartial)} +
                                      (capacity + kMaxTopLogprobs) * int64_t{sizeof(TokenLogprob)});
  const int64_t most_rows =
      std::min((stream.workspace_bytes() - 64) / row_bytes, CudaStream::kMostArrivals);
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
    arguments.arrivals = stream.arrivals();
    const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(n));
    LaunchDependent(SampleRows, {.grid = grid, .threads = kSampleThreads}, stream, arguments);
  }
}

}  // namespace caravan::cuda
