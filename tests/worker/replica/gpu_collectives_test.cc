#ifdef CARAVAN_HAS_CUDA
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "common/status.h"
#include "kernels/device/device_memory.h"
#include "tests/worker/replica/gpu_group_fixture.h"
#include "tests/worker/replica/replica_fixture.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

// Whole numbers whose sums are exact in float32, and tell rank and element.
float Addend(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 3) % 64 + rank); }

float ExactSum(int world_size, int64_t i) {
  float sum = 0;
  for (int r = 0; r < world_size; ++r) sum += Addend(r, i);
  return sum;
}

std::vector<float> AddendsOf(int rank, int64_t size) {
  std::vector<float> x(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) x[i] = Addend(rank, i);
  return x;
}

// float32 on a rank's GPU; views are of its beginning.
class GpuMatrix {
 public:
  GpuMatrix(int64_t rows, int64_t cols, CudaStream& stream)
      : stream_(stream), memory_(DeviceMemory::Allocate(rows * cols * 4)) {
    CARAVAN_CHECK(memory_.data() != nullptr);
  }
  MatrixView view(int64_t rows, int64_t cols) const {
    CARAVAN_CHECK(rows * cols * 4 <= memory_.bytes());
    return DenseMatrix(memory_.data(), DType::kFloat32, rows, cols);
  }
  void Set(const std::vector<float>& values) {
    CopyToDevice(memory_.data(), values.data(), static_cast<int64_t>(values.size() * 4), stream_);
    stream_.Synchronize();
  }
  std::vector<float> Get(int64_t size) const {
    std::vector<float> values(static_cast<size_t>(size));
    CopyToHost(values.data(), memory_.data(), size * 4, stream_);
    stream_.Synchronize();
    return values;
  }

 private:
  CudaStream& stream_;
  const DeviceMemory memory_;
};

constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 1},     {3, 5},     {1, 4096},
                                                   {32, 4096}, {9, 16032}, {300, 8192}};

// Checks one rank's part of sums and gathers.
class RankCheck {
 public:
  RankCheck(Collectives& ranks, CudaStream& stream)
      : ranks_(ranks),
        stream_(stream),
        x_(300, 8192, stream),
        full_(300, 8192 * ranks.world_size(), stream) {}

  // The number of wrong elements of all shapes.
  int64_t WrongElements() {
    int64_t wrong = 0;
    for (const auto& [rows, cols] : kShapes) wrong += WrongElements(rows, cols);
    return wrong + !ranks_.status().ok();
  }

 private:
  int64_t WrongElements(int64_t rows, int64_t cols) {
    const DeviceStream stream = DeviceStream::Cuda(stream_);
    const int64_t all_cols = cols * ranks_.world_size();
    const MatrixView x = x_.view(rows, cols);
    x_.Set(AddendsOf(ranks_.rank(), rows * cols));
    int64_t wrong = !ranks_.GatherColumns(x, full_.view(rows, all_cols), stream).ok();
    wrong += !ranks_.AllReduceSum(x, stream).ok();
    const std::vector<float> sums = x_.Get(rows * cols);
    const std::vector<float> gathered = full_.Get(rows * all_cols);
    for (int64_t i = 0; i < rows * cols; ++i) wrong += sums[i] != ExactSum(ranks_.world_size(), i);
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t c = 0; c < all_cols; ++c) {
        const float expected = Addend(static_cast<int>(c / cols), t * cols + c % cols);
        wrong += gathered[t * all_cols + c] != expected;
      }
    }
    return wrong;
  }

  Collectives& ranks_;
  CudaStream& stream_;
  GpuMatrix x_, full_;
};

class GpuCollectivesTest : public ::testing::TestWithParam<std::tuple<CollectivesKind, int>> {
 protected:
  // Ranks may share a GPU through peer memory (processes on one take turns); NCCL refuses that.
  void SetUp() override {
    std::string why;
    const int needed = kind() == CollectivesKind::kPeer ? 1 : world_size();
    if (!HasGpus(needed, &why)) GTEST_SKIP() << why;
  }
  void NeedOneGpuEach() {
    std::string why;
    if (!HasGpus(world_size(), &why)) GTEST_SKIP() << why;
  }
  // For Abort to free a stream with `calls` in it. Each kernel of NCCL looks for itself, every 4
  // ms.
  static absl::Duration MostToAbort(int calls) {
    return absl::Milliseconds(kind() == CollectivesKind::kPeer ? 100 : 100 + 10 * calls);
  }
  static CollectivesKind kind() { return std::get<0>(GetParam()); }
  static int world_size() { return std::get<1>(GetParam()); }
};

TEST_P(GpuCollectivesTest, RanksAsThreadsGetExactResults) {
  GpuGroup group(kind(), world_size());
  std::atomic<int64_t> wrong{0};
  group.Run([&](Collectives& ranks, CudaStream& stream) {
    RankCheck check(ranks, stream);
    group.Meet();
    wrong += check.WrongElements();
    group.Meet();
  });
  EXPECT_EQ(wrong, 0);
}

TEST(GpuRankProcess, GetsExactResults) {
  int gpu = 0;
  const auto ranks = ConnectAsRankProcess(&gpu);
  if (ranks == nullptr) GTEST_SKIP() << "not a rank process";
  std::string problem;
  const auto stream = CudaStream::Create({.device = gpu}, &problem);
  ASSERT_NE(stream, nullptr) << problem;
  EXPECT_EQ(RankCheck(*ranks, *stream).WrongElements(), 0);
}

TEST_P(GpuCollectivesTest, RanksAsProcessesGetExactResults) {
  std::string problem;
  const auto stream = CudaStream::Create({.device = 0}, &problem);
  ASSERT_NE(stream, nullptr) << problem;
  GpuRankProcesses processes(kind(), world_size(), "GpuRankProcess.GetsExactResults");
  stream->MakeCurrent();
  EXPECT_EQ(RankCheck(processes.rank0(), *stream).WrongElements(), 0);
  for (int r = 1; r < world_size(); ++r) EXPECT_EQ(processes.Join(r), 0) << "rank " << r;
}

// Sums of numbers that do not add exactly: equal bits on all ranks, and with peer memory those of
// the rank order; so with NCCL where rows must not depend on each other.
TEST_P(GpuCollectivesTest, AllRanksHoldTheSameBits) {
  constexpr int64_t kRows = 70;
  constexpr int64_t kCols = 4096;
  std::vector<std::vector<float>> addends(static_cast<size_t>(world_size()));
  for (int r = 0; r < world_size(); ++r) {
    std::mt19937 random(r + 1);
    std::normal_distribution<float> normal(0, 100);
    for (int64_t i = 0; i < kRows * kCols; ++i) addends[r].push_back(normal(random));
  }
  std::vector<float> in_order = addends[0];
  for (int r = 1; r < world_size(); ++r) {
    for (size_t i = 0; i < in_order.size(); ++i) in_order[i] += addends[r][i];
  }
  for (const bool batch_invariant : {false, true}) {
    GpuGroup group(kind(), world_size(), batch_invariant);
    std::vector<std::vector<float>> sums(static_cast<size_t>(world_size()));
    group.Run([&](Collectives& ranks, CudaStream& stream) {
      GpuMatrix x(kRows, kCols, stream);
      x.Set(addends[ranks.rank()]);
      group.Meet();
      EXPECT_TRUE(ranks.AllReduceSum(x.view(kRows, kCols), DeviceStream::Cuda(stream)).ok());
      sums[ranks.rank()] = x.Get(kRows * kCols);
      group.Meet();
    });
    for (int r = 1; r < world_size(); ++r) EXPECT_EQ(sums[r], sums[0]) << "rank " << r;
    if (batch_invariant || kind() == CollectivesKind::kPeer) {
      EXPECT_EQ(sums[0], in_order);
    }
  }
}

TEST_P(GpuCollectivesTest, AbortFreesAWaitingStreamSoonAndForGood) {
  GpuGroup group(kind(), world_size());
  group.stream(0).MakeCurrent();
  GpuMatrix x(64, 4096, group.stream(0));
  const DeviceStream stream = DeviceStream::Cuda(group.stream(0));
  // Rank 0 waits for peers that never come.
  for (int i = 0; i < 100; ++i)
    ASSERT_TRUE(group.ranks(0).AllReduceSum(x.view(64, 4096), stream).ok());
  EXPECT_FALSE(group.stream(0).IsIdle());
  const absl::Time aborted = absl::Now();
  std::thread aborting([&] { group.ranks(0).Abort(); });
  group.stream(0).Synchronize();
  aborting.join();
  EXPECT_LT(absl::Now() - aborted, MostToAbort(100));
  EXPECT_EQ(group.ranks(0).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(group.ranks(0).AllReduceSum(x.view(64, 4096), stream).code(),
            absl::StatusCode::kUnavailable);
}

// Sums of 32 MiB: a peer is killed within one, not between two.
constexpr int64_t kLargeRows = 2048;

TEST(GpuRankProcess, SumsForEver) {
  int gpu = 0;
  const auto ranks = ConnectAsRankProcess(&gpu);
  if (ranks == nullptr) GTEST_SKIP() << "not a rank process";
  std::string problem;
  const auto stream = CudaStream::Create({.device = gpu}, &problem);
  ASSERT_NE(stream, nullptr) << problem;
  GpuMatrix x(kLargeRows, 4096, *stream);
  while (ranks->AllReduceSum(x.view(kLargeRows, 4096), DeviceStream::Cuda(*stream)).ok())
    stream->Synchronize();
}

// The survivor's kernels end, its GPU works on, and the next group stands.
TEST_P(GpuCollectivesTest, APeerKilledInMidSumFreesTheOthersOnceTheyAbort) {
  NeedOneGpuEach();
  if (IsSkipped()) return;
  std::string problem;
  const auto stream = CudaStream::Create({.device = 0}, &problem);
  ASSERT_NE(stream, nullptr) << problem;
  {
    GpuRankProcesses processes(kind(), world_size(), "GpuRankProcess.SumsForEver");
    stream->MakeCurrent();
    GpuMatrix x(kLargeRows, 4096, *stream);
    const auto sum = [&] {
      return processes.rank0().AllReduceSum(x.view(kLargeRows, 4096), DeviceStream::Cuda(*stream));
    };
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(sum().ok());
    stream->Synchronize();
    // Some of what is enqueued meets the peer, the rest waits for a dead one: 10 ms of sums, and
    // few enough launches (two ranks take four a sum) that nothing here waits to enqueue one.
    for (int i = 0; i < 60; ++i) ASSERT_TRUE(sum().ok());
    processes.Kill(world_size() - 1);
    EXPECT_EQ(processes.Join(world_size() - 1), -SIGKILL);
    for (int i = 0; i < 30; ++i) ASSERT_TRUE(sum().ok());
    // What the leader does once the Join stream of the killed one breaks.
    const absl::Time aborted = absl::Now();
    processes.rank0().Abort();
    stream->Synchronize();
    EXPECT_LT(absl::Now() - aborted, MostToAbort(90));
    EXPECT_EQ(processes.rank0().status().code(), absl::StatusCode::kUnavailable);
  }
  const absl::Time start = absl::Now();
  GpuRankProcesses next(kind(), world_size(), "GpuRankProcess.GetsExactResults");
  RecordProperty("next_group_ms", std::to_string(absl::ToInt64Milliseconds(absl::Now() - start)));
  stream->MakeCurrent();
  EXPECT_EQ(RankCheck(next.rank0(), *stream).WrongElements(), 0);
}

TEST_P(GpuCollectivesTest, APeerThatNeverConnectsIsNamed) {
  std::vector<GroupSpec> specs = MakeGpuSpecs(kind(), world_size());
  std::vector<std::unique_ptr<CollectivesBuilder>> builders;
  std::vector<std::string> addresses;
  for (GroupSpec& spec : specs) {
    spec.connect_timeout = absl::Milliseconds(500);
    auto builder = MakeCollectivesBuilder(spec);
    ASSERT_TRUE(builder.ok()) << builder.status();
    builders.push_back(*std::move(builder));
    addresses.push_back(builders.back()->address());
  }
  const absl::Time start = absl::Now();
  const absl::Status status = builders[0]->Connect(addresses).status();
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0 (host "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 (host "));
}

TEST_P(GpuCollectivesTest, AbortEndsAConnectThatNoPeerAnswers) {
  std::vector<std::unique_ptr<CollectivesBuilder>> builders;
  std::vector<std::string> addresses;
  for (const GroupSpec& spec : MakeGpuSpecs(kind(), world_size())) {
    auto builder = MakeCollectivesBuilder(spec);
    ASSERT_TRUE(builder.ok()) << builder.status();
    builders.push_back(*std::move(builder));
    addresses.push_back(builders.back()->address());
  }
  std::thread aborting([&] { builders[0]->Abort(); });
  EXPECT_EQ(builders[0]->Connect(addresses).status().code(), absl::StatusCode::kUnavailable);
  aborting.join();
}

// Graphs hold calls of both kinds, and are destroyed before the group.
TEST_P(GpuCollectivesTest, CallsAreReplayedInAGraph) {
  constexpr int kCalls = 20;
  constexpr int kReplays = 500;
  GpuGroup group(kind(), world_size());
  std::atomic<int64_t> wrong{0};
  group.Run([&](Collectives& ranks, CudaStream& cuda) {
    const DeviceStream stream = DeviceStream::Cuda(cuda);
    GpuMatrix source(kCalls, 4096, cuda);
    GpuMatrix sums(kCalls, 4096, cuda);
    GpuMatrix gathered(kCalls, 4096 * ranks.world_size(), cuda);
    source.Set(AddendsOf(ranks.rank(), kCalls * 4096));
    group.Meet();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replayed = nullptr;
    wrong += cudaStreamBeginCapture(cuda.handle(), cudaStreamCaptureModeThreadLocal) != cudaSuccess;
    for (int call = 0; call < kCalls; ++call) {
      const MatrixView sum = sums.view(kCalls, 4096).Rows(call, 1);
      CopyOnDevice(sum.data, source.view(kCalls, 4096).row(call), 4096 * 4, cuda);
      wrong += !ranks.AllReduceSum(sum, stream).ok();
      wrong += !ranks
                    .GatherColumns(source.view(kCalls, 4096).Rows(call, 1),
                                   gathered.view(kCalls, 4096 * ranks.world_size()).Rows(call, 1),
                                   stream)
                    .ok();
    }
    wrong += cudaStreamEndCapture(cuda.handle(), &graph) != cudaSuccess;
    wrong += cudaGraphInstantiate(&replayed, graph, 0) != cudaSuccess;
    for (int i = 0; i < kReplays; ++i) {
      wrong += cudaGraphLaunch(replayed, cuda.handle()) != cudaSuccess;
    }
    const std::vector<float> results = sums.Get(kCalls * 4096);
    for (int64_t i = 0; i < kCalls * 4096; ++i) {
      wrong += results[i] != ExactSum(ranks.world_size(), i);
    }
    cudaGraphExecDestroy(replayed);
    cudaGraphDestroy(graph);
    group.Meet();
  });
  EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Groups, GpuCollectivesTest,
                         ::testing::Combine(::testing::Values(CollectivesKind::kPeer,
                                                              CollectivesKind::kNccl),
                                            ::testing::Values(2, 4)),
                         [](const auto& info) {
                           return std::string(NameOf(std::get<0>(info.param))) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

TEST(GpuCollectives, RefuseARankOnTheCpuAndTheOtherWayRound) {
  GroupSpec spec;
  spec.world_size = 2;
  spec.kind = CollectivesKind::kNccl;
  absl::Status status = MakeCollectivesBuilder(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--collectives=nccl is for ranks on GPUs"));
  spec.kind = CollectivesKind::kGloo;
  spec.gpu = 0;
  status = MakeCollectivesBuilder(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("choose auto, peer or nccl"));
}

TEST(GpuLeader, TakesNcclOnceARankCanNotMapItsPeers) {
  std::string why;
  if (!HasGpus(1, &why)) GTEST_SKIP() << why;
  LeaderOptions options;
  options.tensor_parallel = 2;
  options.gpu = 0;
  TestLeader leader(options);
  ScriptedFollower follower(leader.address(), 77);
  follower.SayHello(1, 2, /*neighbour=*/true, "cuda");
  v1::LeaderMessage heard = follower.Hear();
  ASSERT_TRUE(heard.has_configure());
  EXPECT_EQ(heard.configure().collectives(), "peer");
  // What may mend itself is tried again.
  follower.SayFailed(heard.epoch(), "a rank was lost");
  EXPECT_TRUE(follower.Hear().has_abort());
  heard = follower.Hear();
  EXPECT_EQ(heard.configure().collectives(), "peer");
  // Once may be a rank that died; see BelievesAFailureOfACollectivesKindOnlyTwiceInARow.
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(heard.configure().collectives(), "peer");
    follower.SayFailed(heard.epoch(), "no peer access", absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(follower.Hear().has_abort());
    heard = follower.Hear();
  }
  EXPECT_EQ(heard.configure().collectives(), "nccl");
}

}  // namespace
}  // namespace caravan
#endif
