#include "worker/model/collectives.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "tests/worker/replica/group_fixture.h"

namespace caravan {
namespace {

// Addends whose sums are exact in every dtype: small whole numbers that tell rank and element.
float Addend(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 3) % 16 + rank); }

float ExactSum(int world_size, int64_t i) {
  float sum = 0;
  for (int r = 0; r < world_size; ++r) sum += Addend(r, i);
  return sum;
}

// Whole numbers up to 256 are exact in all three.
void Store(DType dtype, void* data, int64_t i, float value) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(data)[i] = value;
      break;
    case DType::kBFloat16:
      static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      break;
    case DType::kFloat16:
      static_cast<_Float16*>(data)[i] = static_cast<_Float16>(value);
      break;
  }
}

float Load(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data)[i];
    case DType::kBFloat16:
      return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(data)[i]} << 16);
    case DType::kFloat16:
      return static_cast<float>(static_cast<const _Float16*>(data)[i]);
  }
  return 0;
}

// The number of wrong elements of an all-reduce, a gather and a broadcast of `rows` x `cols`.
int64_t WrongElements(Collectives& group, DType dtype, int64_t rows, int64_t cols) {
  const int64_t size = rows * cols;
  const int world_size = group.world_size();
  int64_t wrong = 0;

  std::vector<std::byte> x(static_cast<size_t>(size * SizeOf(dtype)));
  for (int64_t i = 0; i < size; ++i) Store(dtype, x.data(), i, Addend(group.rank(), i));
  const absl::Status reduced =
      group.AllReduceSum(DenseMatrix(x.data(), dtype, rows, cols), DeviceStream::Cpu());
  for (int64_t i = 0; i < size; ++i) wrong += Load(dtype, x.data(), i) != ExactSum(world_size, i);

  for (int64_t i = 0; i < size; ++i) Store(dtype, x.data(), i, Addend(group.rank(), i));
  std::vector<std::byte> full(group.rank() == 0 ? x.size() * world_size : 0);
  const absl::Status gathered = group.GatherColumns(
      DenseMatrix(static_cast<const void*>(x.data()), dtype, rows, cols),
      group.rank() == 0 ? DenseMatrix(full.data(), dtype, rows, cols * world_size) : MatrixView{},
      DeviceStream::Cpu());
  for (int64_t i = 0; group.rank() == 0 && i < size * world_size; ++i) {
    const int64_t row = i / (cols * world_size);
    const int64_t column = i % (cols * world_size);
    const float expected = Addend(static_cast<int>(column / cols), row * cols + column % cols);
    wrong += Load(dtype, full.data(), i) != expected;
  }

  const int root = world_size - 1;
  for (int64_t i = 0; i < size; ++i) Store(dtype, x.data(), i, Addend(group.rank(), i));
  const absl::Status sent = group.Broadcast(x.data(), x.size(), root);
  for (int64_t i = 0; i < size; ++i) wrong += Load(dtype, x.data(), i) != Addend(root, i);

  return wrong + !reduced.ok() + !gathered.ok() + !sent.ok();
}

struct Case {
  CollectivesKind kind;
  int world_size;
};

class CollectivesTest : public ::testing::TestWithParam<Case> {
 protected:
  CollectivesKind kind() const { return GetParam().kind; }
  int world_size() const { return GetParam().world_size; }
};

// Sizes of one element, odd ones, both paths of shared memory, one slot and several.
constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 1},    {3, 5},     {1, 4096},  {2, 8192},
                                                   {7, 1111}, {16, 4096}, {65, 4099}, {3, 300001}};

TEST_P(CollectivesTest, RanksAsThreadsGetExactResults) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    std::atomic<int64_t> wrong{0};
    RunThreads(kind(), world_size(), [&](Collectives& group) {
      for (const auto& [rows, cols] : kShapes) wrong += WrongElements(group, dtype, rows, cols);
    });
    EXPECT_EQ(wrong, 0) << static_cast<int>(dtype);
  }
}

TEST_P(CollectivesTest, RanksAsProcessesGetExactResults) {
  const auto body = [](Collectives& group) {
    int64_t wrong = 0;
    for (const auto& [rows, cols] : kShapes) {
      wrong += WrongElements(group, DType::kFloat32, rows, cols);
      wrong += WrongElements(group, DType::kBFloat16, rows, cols);
    }
    // No rank leaves before the last one is done.
    char end = 0;
    wrong += !group.Broadcast(&end, 1, 0).ok();
    return wrong == 0 ? 0 : 1;
  };
  RankProcesses ranks(kind(), world_size(), body);
  EXPECT_EQ(body(ranks.rank0()), 0);
  for (int r = 1; r < world_size(); ++r) EXPECT_EQ(ranks.Join(r), 0) << "rank " << r;
}

TEST_P(CollectivesTest, SumsHaveTheBitsOfTheRankOrderWhateverTheNumberOfRows) {
  constexpr int64_t kRows = 70;
  constexpr int64_t kCols = 1000;
  std::vector<std::vector<float>> addends(world_size());
  for (int r = 0; r < world_size(); ++r) {
    std::mt19937 random(r + 1);
    std::normal_distribution<float> normal(0, 100);
    for (int64_t i = 0; i < kRows * kCols; ++i) addends[r].push_back(normal(random));
  }
  std::vector<float> expected = addends[0];
  for (int r = 1; r < world_size(); ++r) {
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += addends[r][i];
  }
  std::atomic<int> different{0};
  RunThreads(kind(), world_size(), [&](Collectives& group) {
    for (const int64_t step : {kRows, int64_t{1}, int64_t{9}}) {
      std::vector<float> x = addends[group.rank()];
      for (int64_t row = 0; row < kRows; row += step) {
        const int64_t count = std::min(step, kRows - row);
        const absl::Status status = group.AllReduceSum(
            DenseMatrix(&x[row * kCols], DType::kFloat32, count, kCols), DeviceStream::Cpu());
        different += !status.ok();
      }
      different += std::memcmp(x.data(), expected.data(), x.size() * sizeof(float)) != 0;
    }
  });
  EXPECT_EQ(different, 0);
}

TEST_P(CollectivesTest, AbortFreesAWaitingRankWithinATenthOfASecondAndForGood) {
  const auto group = MakeGroup(kind(), world_size());
  float x = 1;
  std::atomic<bool> entered{false};
  absl::Status status;
  absl::Time freed;
  // Rank 0 waits for peers which never come.
  std::thread rank0([&] {
    entered = true;
    status = group[0]->AllReduceSum(DenseMatrix(&x, DType::kFloat32, 1, 1), DeviceStream::Cpu());
    freed = absl::Now();
  });
  while (!entered) std::this_thread::yield();
  const absl::Time aborted = absl::Now();
  group[0]->Abort();
  rank0.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_LT(freed - aborted, absl::Milliseconds(100));
  EXPECT_EQ(group[0]->Broadcast(&x, sizeof(x), 0).code(), absl::StatusCode::kUnavailable);
  // The others of the group are freed too: they see the abort word, or their connections break.
  for (size_t r = 1; r < group.size(); ++r) {
    EXPECT_EQ(group[r]->Broadcast(&x, sizeof(x), 0).code(), absl::StatusCode::kUnavailable);
  }
}

TEST_P(CollectivesTest, APeerKilledInMidReduceFreesTheOthersOnceTheyAbort) {
  const int world = world_size();
  const auto reduce_for_ever = [](Collectives& group) {
    std::vector<float> x(100000, 1.0f);
    for (;;) {
      const absl::Status status = group.AllReduceSum(
          DenseMatrix(x.data(), DType::kFloat32, 1, static_cast<int64_t>(x.size())),
          DeviceStream::Cpu());
      if (!status.ok()) return absl::IsUnavailable(status) ? 0 : 1;
    }
  };
  RankProcesses ranks(kind(), world, reduce_for_ever);
  std::vector<float> x(100000);
  const auto reduce = [&] {
    return ranks.rank0().AllReduceSum(
        DenseMatrix(x.data(), DType::kFloat32, 1, static_cast<int64_t>(x.size())),
        DeviceStream::Cpu());
  };
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(reduce().ok());
  ranks.Kill(world - 1);
  EXPECT_EQ(ranks.Join(world - 1), -SIGKILL);
  // What the leader does once the Join stream of the killed one breaks.
  ranks.rank0().Abort();
  EXPECT_EQ(reduce().code(), absl::StatusCode::kUnavailable);
  for (int r = 1; r < world - 1; ++r) EXPECT_EQ(ranks.Join(r), 0) << "rank " << r;
}

INSTANTIATE_TEST_SUITE_P(Groups, CollectivesTest,
                         ::testing::Values(Case{CollectivesKind::kSharedMemory, 2},
                                           Case{CollectivesKind::kSharedMemory, 3},
                                           Case{CollectivesKind::kSharedMemory, 4},
                                           Case{CollectivesKind::kGloo, 2},
                                           Case{CollectivesKind::kGloo, 4}),
                         [](const auto& info) {
                           return std::string(NameOf(info.param.kind)) + "_" +
                                  std::to_string(info.param.world_size);
                         });

TEST(SharedMemory, ANameInUseOrMissingIsAnErrorThatNamesTheWayOut) {
  std::vector<GroupSpec> specs = MakeGroupSpecs(CollectivesKind::kSharedMemory, 2);
  EXPECT_EQ(MakeCollectivesBuilder(specs[1]).status().code(), absl::StatusCode::kUnavailable);
  const auto first = MakeCollectivesBuilder(specs[0]);
  ASSERT_TRUE(first.ok());
  const auto second = MakeCollectivesBuilder(specs[0]);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(second.status().message()).find("--collectives=gloo"), std::string::npos);
}

TEST(SharedMemory, TheNameIsGoneOnceTheGroupStandsOrItsBuilderIsDropped) {
  std::vector<GroupSpec> specs = MakeGroupSpecs(CollectivesKind::kSharedMemory, 1);
  for (const bool connect : {false, true}) {
    auto builder = MakeCollectivesBuilder(specs[0]);
    ASSERT_TRUE(builder.ok()) << builder.status();
    if (connect) {
      const std::vector<std::string> addresses = {(*builder)->address()};
      const auto collectives = (*builder)->Connect(addresses);
      ASSERT_TRUE(collectives.ok());
      EXPECT_TRUE(MakeCollectivesBuilder(specs[0]).ok());
    }
  }
}

TEST(Gloo, AbortEndsAConnectThatNoPeerAnswers) {
  std::vector<GroupSpec> specs = MakeGroupSpecs(CollectivesKind::kGloo, 2);
  auto first = MakeCollectivesBuilder(specs[0]);
  ASSERT_TRUE(first.ok());
  std::string unanswered;
  {
    auto second = MakeCollectivesBuilder(specs[1]);
    ASSERT_TRUE(second.ok());
    unanswered = (*second)->address();
  }
  const std::vector<std::string> addresses = {(*first)->address(), unanswered};
  std::thread aborting([&] { (*first)->Abort(); });
  EXPECT_EQ((*first)->Connect(addresses).status().code(), absl::StatusCode::kUnavailable);
  aborting.join();
}

}  // namespace
}  // namespace caravan
