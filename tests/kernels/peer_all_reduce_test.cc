#ifdef CARAVAN_HAS_CUDA
#include "kernels/peer_all_reduce.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <thread>

#include "tests/kernels/peer_fixture.h"

namespace caravan {
namespace {

constexpr float kEpsilon = 1e-5F;
constexpr int64_t kRegion = int64_t{1} << 20;

class PeerTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    std::string why;
    if (!HasGpu(&why)) GTEST_SKIP() << why;
  }
  static int world_size() { return GetParam(); }

  // A tensor of each rank, fresh with each call.
  std::vector<Tensor> RandomOfAll(DType dtype, int64_t rows, int64_t cols) {
    std::vector<Tensor> tensors;
    for (int r = 0; r < world_size(); ++r) {
      tensors.push_back(Tensor::Random(dtype, rows, cols, ++seed_));
    }
    return tensors;
  }
  Tensor Random(DType dtype, int64_t rows, int64_t cols, int64_t padding = 0) {
    return Tensor::Random(dtype, rows, cols, ++seed_, padding);
  }

 private:
  uint64_t seed_ = 0;
};

// The sum as every rank must make it: in float32, in rank order.
float SumAt(const std::vector<Tensor>& addends, int64_t row, int64_t column) {
  auto sum = static_cast<float>(addends[0].at(row, column));
  for (size_t r = 1; r < addends.size(); ++r) {
    sum += static_cast<float>(addends[r].at(row, column));
  }
  return sum;
}

Tensor RoundedSum(const std::vector<Tensor>& addends) {
  Tensor sum(addends[0].dtype(), addends[0].rows(), addends[0].cols());
  for (int64_t t = 0; t < sum.rows(); ++t) {
    for (int64_t c = 0; c < sum.cols(); ++c) sum.Set(t, c, SumAt(addends, t, c));
  }
  return sum;
}

void ExpectEqualBits(const Tensor& actual, const Tensor& expected, const std::string& what) {
  for (int64_t t = 0; t < expected.rows(); ++t) {
    ASSERT_EQ(actual.Bits(t), expected.Bits(t)) << what << ", row " << t;
  }
  EXPECT_TRUE(actual.GuardsAreIntact()) << what;
}

// One element, warp edges, a model's row, several launches, both ways to sum.
TEST_P(PeerTest, SumsHaveTheBitsOfTheRankOrderOnAllRanks) {
  constexpr std::pair<int64_t, int64_t> kShapes[] = {
      {1, 1}, {3, 5}, {1, 33}, {1, 4096}, {7, 4096}, {64, 4096}, {33, 8191}, {300, 2048}};
  PeerRanks ranks(world_size(), kRegion);
  for (const DType dtype : kAllDTypes) {
    for (const auto& [rows, cols] : kShapes) {
      const std::vector<Tensor> addends = RandomOfAll(dtype, rows, cols);
      std::vector<MatrixView> x;
      for (int r = 0; r < world_size(); ++r) x.push_back(ranks.Put(r, addends[r]));
      ranks.Run([&](int r) { cuda::PeerAllReduceSum(ranks.peers(r), x[r], ranks.stream(r)); });
      const Tensor expected = world_size() == 1 ? addends[0] : RoundedSum(addends);
      for (int r = 0; r < world_size(); ++r) {
        Tensor actual(dtype, rows, cols);
        ranks.Get(r, x[r], &actual);
        SCOPED_TRACE(testing::Message() << NameOf(dtype) << ", " << rows << " x " << cols);
        ExpectEqualBits(actual, expected, "rank " + std::to_string(r));
        if (HasFatalFailure()) return;
      }
    }
  }
}

struct NormInputs {
  std::vector<Tensor> partials;
  Tensor residual;
  Tensor weight;
};

// What comes out of one rank.
struct NormOutputs {
  Tensor residual;
  Tensor out;
};

std::vector<NormOutputs> RunNorm(PeerRanks& ranks, const NormInputs& in, int64_t first,
                                 int64_t rows) {
  std::vector<cuda::PeerReducedNorm> norms;
  const DType dtype = in.residual.dtype();
  const Tensor blank(dtype, in.residual.rows(), in.residual.cols(), 8);
  for (int r = 0; r < ranks.world_size(); ++r) {
    cuda::PeerReducedNorm norm;
    norm.partial = ranks.Put(r, in.partials[r]).Rows(first, rows);
    norm.residual = ranks.Put(r, in.residual).Rows(first, rows);
    norm.out = ranks.Put(r, blank).Rows(first, rows);
    norm.weight = {ranks.Put(r, in.weight).data, dtype, in.weight.cols()};
    norm.epsilon = kEpsilon;
    norms.push_back(norm);
  }
  EXPECT_TRUE(cuda::CanFuse(norms[0]));
  ranks.Run(
      [&](int r) { cuda::PeerAllReduceAddRmsNorm(ranks.peers(r), norms[r], ranks.stream(r)); });
  std::vector<NormOutputs> outputs;
  for (int r = 0; r < ranks.world_size(); ++r) {
    NormOutputs& output = outputs.emplace_back(NormOutputs{
        Tensor(dtype, rows, in.residual.cols(), 8), Tensor(dtype, rows, blank.cols(), 8)});
    ranks.Get(r, norms[r].residual, &output.residual);
    ranks.Get(r, norms[r].out, &output.out);
  }
  return outputs;
}

// One element of a norm in float64. A thread adds at most 32 squares, the block log2(1024) sums of
// them, and seven roundings follow the mean, whose relative error the root halves.
Expected ReferenceNorm(double x, double mean_square, double weight, DType out) {
  const double value = x / std::sqrt(mean_square + double{kEpsilon}) * weight;
  const double relative = ((32 + 10) / 2.0 + 7) * UnitRoundoff(DType::kFloat32);
  return {value, std::fabs(value) * (relative + 1.01 * UnitRoundoff(out)) + SmallestStep(out)};
}

TEST_P(PeerTest, AddsTheSumToTheResidualAndNormalizes) {
  constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 8},     {5, 64},   {1, 4096}, {3, 5120},
                                                     {65, 4096}, {2, 8192}, {20, 6144}};
  PeerRanks ranks(world_size(), kRegion);
  for (const DType dtype : kAllDTypes) {
    for (const DType partial : {dtype, DType::kFloat32}) {
      for (const auto& [rows, cols] : kShapes) {
        const NormInputs in = {RandomOfAll(partial, rows, cols), Random(dtype, rows, cols, 8),
                               Random(dtype, 1, cols)};
        Tensor residual(dtype, rows, cols, 8);
        std::vector<double> mean_squares(static_cast<size_t>(rows));
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t c = 0; c < cols; ++c) {
            const float sum = SumAt(in.partials, t, c);
            residual.Set(t, c, static_cast<float>(in.residual.at(t, c)) + sum);
            mean_squares[t] += residual.at(t, c) * residual.at(t, c) / static_cast<double>(cols);
          }
        }
        const std::vector<NormOutputs> outputs = RunNorm(ranks, in, 0, rows);
        for (int r = 0; r < world_size(); ++r) {
          SCOPED_TRACE(testing::Message() << NameOf(dtype) << " += " << NameOf(partial) << ", "
                                          << rows << " x " << cols << ", rank " << r);
          ExpectEqualBits(outputs[r].residual, residual, "residual");
          ExpectEqualBits(outputs[r].out, outputs[0].out, "out of rank 0");
          EXPECT_TRUE(IsClose(outputs[r].out, [&](int64_t t, int64_t c) {
            return ReferenceNorm(residual.at(t, c), mean_squares[t], in.weight.at(0, c), dtype);
          }));
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_P(PeerTest, NormalizedRowsDoNotDependOnTheNumberOfRows) {
  PeerRanks ranks(world_size(), kRegion, /*batch_invariant=*/true);
  const NormInputs in = {RandomOfAll(DType::kBFloat16, 40, 5120),
                         Random(DType::kBFloat16, 40, 5120, 8), Random(DType::kBFloat16, 1, 5120)};
  const std::vector<NormOutputs> all = RunNorm(ranks, in, 0, 40);
  for (const int64_t count : {1, 2, 7}) {
    const std::vector<NormOutputs> some = RunNorm(ranks, in, 9, count);
    for (int64_t t = 0; t < count; ++t) {
      EXPECT_EQ(some[0].out.Bits(t), all[0].out.Bits(9 + t));
      EXPECT_EQ(some[0].residual.Bits(t), all[0].residual.Bits(9 + t));
    }
  }
}

TEST_P(PeerTest, GathersColumnsOfWholeAndBrokenPacks) {
  constexpr std::pair<int64_t, int64_t> kShapes[] = {
      {1, 1}, {3, 5}, {1, 16032}, {9, 1000}, {64, 4008}};
  PeerRanks ranks(world_size(), kRegion);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const auto& [rows, cols] : kShapes) {
      const std::vector<Tensor> shards = RandomOfAll(dtype, rows, cols);
      const Tensor blank(dtype, rows, cols * world_size());
      std::vector<MatrixView> from;
      std::vector<MatrixView> to;
      for (int r = 0; r < world_size(); ++r) {
        from.push_back(ranks.Put(r, shards[r]));
        to.push_back(ranks.Put(r, blank));
      }
      ranks.Run(
          [&](int r) { cuda::PeerGatherColumns(ranks.peers(r), from[r], to[r], ranks.stream(r)); });
      for (int r = 0; r < world_size(); ++r) {
        Tensor full(dtype, rows, cols * world_size());
        ranks.Get(r, to[r], &full);
        for (int64_t t = 0; t < rows; ++t) {
          std::string expected;
          for (const Tensor& shard : shards) expected += shard.Bits(t);
          ASSERT_EQ(full.Bits(t), expected) << rows << " x " << cols << ", row " << t;
        }
      }
    }
  }
}

TEST_P(PeerTest, SumsInRankOrderOfGatheredAddendsHaveTheSameBits) {
  PeerRanks ranks(1, kRegion);
  for (const DType dtype : kAllDTypes) {
    const std::vector<Tensor> addends = RandomOfAll(dtype, 1, 5001);
    Tensor gathered(dtype, world_size(), 5001);
    for (int r = 0; r < world_size(); ++r) {
      for (int64_t c = 0; c < 5001; ++c) gathered.Set(r, c, addends[r].at(0, c));
    }
    const MatrixView all = ranks.Put(0, gathered);
    const MatrixView out = ranks.Put(0, Tensor(dtype, 1, 5001));
    ranks.Run([&](int) { cuda::SumInRankOrder(all.data, world_size(), out, ranks.stream(0)); });
    Tensor sum(dtype, 1, 5001);
    ranks.Get(0, out, &sum);
    ExpectEqualBits(sum, RoundedSum(addends), NameOf(dtype));
  }
}

// What no memory is left to mean must be sent as something else, and arrive as NaN.
TEST_P(PeerTest, WordsThatMeanEmptyArriveAsNan) {
  PeerRanks ranks(world_size(), kRegion);
  for (const DType dtype : kAllDTypes) {
    const Tensor poisoned(dtype, 1, 100);
    std::vector<MatrixView> x;
    for (int r = 0; r < world_size(); ++r) x.push_back(ranks.Put(r, poisoned));
    ranks.Run([&](int r) { cuda::PeerAllReduceSum(ranks.peers(r), x[r], ranks.stream(r)); });
    Tensor sum(dtype, 1, 100);
    ranks.Get(0, x[0], &sum);
    for (int64_t c = 0; c < 100; ++c) EXPECT_TRUE(std::isnan(sum.at(0, c)));
  }
}

TEST_P(PeerTest, AbortFreesWaitingKernelsAndAllLaterOnes) {
  if (world_size() == 1) GTEST_SKIP() << "no peer to wait for";
  // Rank 0 waits for peers that never come: with two steps of a large model, and with sums by
  // parts. Few enough launches (two ranks take 16 for a large sum) to be enqueued without a wait.
  for (const auto& [rows, sums] : {std::pair<int64_t, int>{8, 300}, {1024, 30}}) {
    PeerRanks ranks(world_size(), kRegion);
    const MatrixView x = ranks.Put(0, Random(DType::kFloat16, rows, 4096));
    ranks.stream(0).MakeCurrent();
    for (int i = 0; i < sums; ++i) cuda::PeerAllReduceSum(ranks.peers(0), x, ranks.stream(0));
    const auto start = std::chrono::steady_clock::now();
    std::thread aborting([&] { ranks.memory(0).Abort(); });
    ranks.stream(0).Synchronize();
    aborting.join();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(100));
    EXPECT_TRUE(ranks.memory(0).aborted());
    EXPECT_FALSE(ranks.memory(1).aborted()) << "each rank is aborted by its own process";
  }
}

// The calls of one replay, each with rows of its own, so that every result of the last replay can
// be checked and what is left over from another turn is seen.
class ReplayedCalls {
 public:
  static constexpr int64_t kCalls = 20;
  static constexpr int64_t kCols = 4096;

  ReplayedCalls(PeerRanks& ranks, int rank) : ranks_(ranks), rank_(rank) {
    const Tensor blank(DType::kFloat32, kCalls, kCols);
    source_ = ranks.Put(rank, blank);
    sums_ = ranks.Put(rank, blank);
    gathered_ = ranks.Put(rank, Tensor(DType::kFloat32, kCalls, kCols * ranks.world_size()));
    residuals_ = ranks.Put(rank, blank);
    normed_ = ranks.Put(rank, blank);
    Tensor ones(DType::kFloat32, 1, kCols);
    for (int64_t c = 0; c < kCols; ++c) ones.Set(0, c, 1);
    ones_ = {ranks.Put(rank, ones).data, DType::kFloat32, kCols};
    cudaStream_t stream = ranks.stream(rank).handle();
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    for (int64_t call = 0; call < kCalls; ++call) Enqueue(call);
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&graph_, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
  }
  ~ReplayedCalls() { cudaGraphExecDestroy(graph_); }

  static float Addend(int rank, int64_t call, int64_t c, int round) {
    return static_cast<float>((c * 7 + call * 3 + rank + round) % 64);
  }

  void SetAddends(int round) {
    Tensor addends(DType::kFloat32, kCalls, kCols);
    for (int64_t call = 0; call < kCalls; ++call) {
      for (int64_t c = 0; c < kCols; ++c) addends.Set(call, c, Addend(rank_, call, c, round));
    }
    CopyToDevice(source_.data, addends.view().data, kCalls * kCols * 4, ranks_.stream(rank_));
    ranks_.stream(rank_).Synchronize();
  }
  void Replay() { EXPECT_EQ(cudaGraphLaunch(graph_, ranks_.stream(rank_).handle()), cudaSuccess); }
  int64_t WrongElements(int round) {
    Tensor sums(DType::kFloat32, kCalls, kCols);
    Tensor residuals(DType::kFloat32, kCalls, kCols);
    Tensor gathered(DType::kFloat32, kCalls, kCols * ranks_.world_size());
    ranks_.Get(rank_, sums_, &sums);
    ranks_.Get(rank_, residuals_, &residuals);
    ranks_.Get(rank_, gathered_, &gathered);
    int64_t wrong = 0;
    for (int64_t call = 0; call < kCalls; ++call) {
      for (int64_t c = 0; c < kCols; ++c) {
        float sum = 0;
        for (int r = 0; r < ranks_.world_size(); ++r) {
          const float addend = Addend(r, call, c, round);
          sum += addend;
          wrong += gathered.at(call, r * kCols + c) != addend;
        }
        wrong += sums.at(call, c) != sum;
        wrong += residuals.at(call, c) != 2 * sum;  // from sums
      }
    }
    return wrong;
  }

 private:
  void Enqueue(int64_t call) {
    CudaStream& stream = ranks_.stream(rank_);
    const PeerView& peers = ranks_.peers(rank_);
    const MatrixView sum = sums_.Rows(call, 1);
    const MatrixView residual = residuals_.Rows(call, 1);
    CopyOnDevice(sum.data, source_.row(call), kCols * 4, stream);
    cuda::PeerAllReduceSum(peers, sum, stream);
    CopyOnDevice(residual.data, sum.data, kCols * 4, stream);
    cuda::PeerAllReduceAddRmsNorm(
        peers, {source_.Rows(call, 1), ones_, kEpsilon, residual, normed_.Rows(call, 1)}, stream);
    cuda::PeerGatherColumns(peers, source_.Rows(call, 1), gathered_.Rows(call, 1), stream);
  }

  PeerRanks& ranks_;
  const int rank_;
  MatrixView source_, sums_, gathered_, residuals_, normed_;
  ConstVectorView ones_;
  cudaGraphExec_t graph_ = nullptr;
};

TEST_P(PeerTest, TenThousandIterationsInAGraphAreExact) {
  PeerRanks ranks(world_size(), kRegion);
  std::vector<std::unique_ptr<ReplayedCalls>> calls;
  ranks.ForEach([&](int r) { calls.push_back(std::make_unique<ReplayedCalls>(ranks, r)); });
  constexpr int kRounds = 10;
  constexpr int kReplays = 10000 / ReplayedCalls::kCalls / kRounds;
  for (int round = 0; round < kRounds; ++round) {
    ranks.ForEach([&](int r) { calls[r]->SetAddends(round); });
    for (int i = 0; i < kReplays; ++i) ranks.ForEach([&](int r) { calls[r]->Replay(); });
    ranks.Run([](int) {});
    for (int r = 0; r < world_size(); ++r) ASSERT_EQ(calls[r]->WrongElements(round), 0);
  }
}

// Sums of 3 to 21 rounds of the ring, whole and broken ones, which follow each other in a graph
// with nothing between them but one that uses the regions: what one leaves behind would be in the
// next.
class ChainedSums {
 public:
  static constexpr int64_t kMost = 1'000'003;  // elements
  static constexpr int64_t kSizes[] = {150'001, 131'080, 400'000, 530'000, 580'001, 262'144,
                                       100,     640'000, 700'004, kMost,   200'000};
  static constexpr int kRepeats = 4;  // each sum of a sum is world_size times as large

  // Whole numbers of which all sums are exact; `set` tells replays apart.
  static float Addend(int rank, int64_t i, int set) {
    return static_cast<float>((i * 7 + i / 4096 + set * 5 + rank * 11) % 64);
  }
  static float ChainedSum(int world_size, int64_t i, int set) {
    float sum = 0;
    for (int r = 0; r < world_size; ++r) sum += Addend(r, i, set);
    for (int repeat = 1; repeat < kRepeats; ++repeat) sum *= static_cast<float>(world_size);
    return sum;
  }

  ChainedSums(PeerRanks& ranks, int rank) : ranks_(ranks), rank_(rank) {
    for (int set = 0; set < 2; ++set) {
      Tensor addends(DType::kFloat32, 1, kMost);
      for (int64_t i = 0; i < kMost; ++i) addends.Set(0, i, Addend(rank, i, set));
      sources_.push_back(ranks.Put(rank, addends));
    }
    for (const int64_t size : kSizes) {
      sums_.push_back(ranks.Put(rank, Tensor(DType::kFloat32, 1, size)));
    }
    cudaStream_t stream = ranks.stream(rank).handle();
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      for (const MatrixView& x : sums_) {
        cuda::PeerAllReduceSum(ranks.peers(rank), x, ranks.stream(rank));
      }
    }
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&graph_, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
  }
  ~ChainedSums() { cudaGraphExecDestroy(graph_); }

  void Replay(int set) {
    for (const MatrixView& x : sums_) {
      CopyOnDevice(x.data, sources_[static_cast<size_t>(set)].data, x.cols * 4,
                   ranks_.stream(rank_));
    }
    EXPECT_EQ(cudaGraphLaunch(graph_, ranks_.stream(rank_).handle()), cudaSuccess);
  }
  void Check(const std::string& expected) {
    for (const MatrixView& x : sums_) {
      Tensor sum(DType::kFloat32, 1, x.cols);
      ranks_.Get(rank_, x, &sum);
      ASSERT_EQ(sum.Bits(0), expected.substr(0, static_cast<size_t>(x.cols) * 4))
          << x.cols << " elements, rank " << rank_;
    }
  }

 private:
  PeerRanks& ranks_;
  const int rank_;
  std::vector<MatrixView> sources_, sums_;
  cudaGraphExec_t graph_ = nullptr;
};

TEST_P(PeerTest, LargeSumsThatFollowEachOtherInAGraphAreExact) {
  if (world_size() == 1) GTEST_SKIP() << "nothing to sum";
  PeerRanks ranks(world_size(), kRegion);
  std::vector<std::unique_ptr<ChainedSums>> chains;
  ranks.ForEach([&](int r) { chains.push_back(std::make_unique<ChainedSums>(ranks, r)); });
  std::vector<std::string> expected;
  for (int set = 0; set < 2; ++set) {
    Tensor sums(DType::kFloat32, 1, ChainedSums::kMost);
    for (int64_t i = 0; i < sums.cols(); ++i) {
      sums.Set(0, i, ChainedSums::ChainedSum(world_size(), i, set));
    }
    expected.push_back(sums.Bits(0));
  }
  for (int replay = 0; replay < 50; ++replay) {
    const int set = replay % 2;
    ranks.ForEach([&](int r) { chains[static_cast<size_t>(r)]->Replay(set); });
    if (replay % 5 != 4) continue;  // so that replays meet
    ranks.Run([](int) {});
    for (int r = 0; r < world_size(); ++r) {
      SCOPED_TRACE(testing::Message() << "replay " << replay);
      chains[static_cast<size_t>(r)]->Check(expected[static_cast<size_t>(set)]);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, PeerTest, testing::Values(1, 2, 3, 4, 8));

}  // namespace
}  // namespace caravan
#endif
