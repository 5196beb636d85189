// Every path of the product on the GPU by itself, and the sizes of real models.
#ifdef CARAVAN_HAS_CUDA

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/device/matmul/paths.h"
#include "kernels/dummy_fill.h"
#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

using cuda::MatmulArgs;
using cuda::MatmulPath;

constexpr MatmulPath kPaths[] = {MatmulPath::kGeneric, MatmulPath::kVector, MatmulPath::kTiled,
                                 MatmulPath::kStreamed, MatmulPath::kCublas};
constexpr uint64_t kInputKey = 1;
constexpr uint64_t kWeightKey = 2;

// A product whose operands are dummy weights: any element is known without the others, so that a
// sample of a large one can be checked.
class DummyProduct {
 public:
  // `weight_rows`: those of the weights, where they are not the features of the output.
  DummyProduct(DType dtype, DType out_dtype, int64_t tokens, int64_t features, int64_t k,
               int64_t weight_rows = 0)
      : dtype_(dtype),
        k_(k),
        weight_rows_(weight_rows == 0 ? features : weight_rows),
        out_(out_dtype, tokens, features) {}

  template <typename Multiply>
  void Run(bool batch_invariant, const Multiply& multiply) {
    TargetRun run({.device = Device::kCuda, .batch_invariant = batch_invariant});
    const DeviceMemory x = Fill(kInputKey, out_.rows(), run.stream());
    const DeviceMemory weight = Fill(kWeightKey, weight_rows_, run.stream());
    multiply(MatmulArgs{DenseMatrix(static_cast<const void*>(x.data()), dtype_, out_.rows(), k_),
                        {.dtype = dtype_,
                         .data = weight.data(),
                         .out_features = weight_rows_,
                         .in_features = k_},
                        {},
                        run.Out(out_)},
             run.stream().cuda());
    run.Finish();
  }

  // Some 300 elements, the corners among them, against float64. See matmul_test.cc for the bound.
  void Check() const {
    std::mt19937_64 generator(7);
    std::vector<int64_t> features = {0, out_.cols() / 2, out_.cols() - 1};
    for (int i = 0; i < 20; ++i) {
      features.push_back(static_cast<int64_t>(generator() % static_cast<uint64_t>(out_.cols())));
    }
    std::vector<int64_t> tokens = {0, out_.rows() / 2, out_.rows() - 1};
    for (int i = 0; i < 10; ++i) {
      tokens.push_back(static_cast<int64_t>(generator() % static_cast<uint64_t>(out_.rows())));
    }
    for (const int64_t t : tokens) {
      const std::vector<double> x = Row(kInputKey, t);
      for (const int64_t n : features) CheckElement(t, n, x);
    }
  }

  // No element still has its poison.
  bool IsWhole() const {
    for (int64_t t = 0; t < out_.rows(); ++t) {
      for (int64_t n = 0; n < out_.cols(); ++n) {
        if (std::isnan(out_.at(t, n))) return false;
      }
    }
    return true;
  }
  const Tensor& out() const { return out_; }

 private:
  DeviceMemory Fill(uint64_t key, int64_t rows, DeviceStream stream) const {
    DeviceMemory memory = DeviceMemory::Allocate(rows * k_ * SizeOf(dtype_));
    FillDummy({.key = key, .stride = k_}, DenseMatrix(memory.data(), dtype_, rows, k_), stream);
    return memory;
  }

  std::vector<double> Row(uint64_t key, int64_t row) const {
    Tensor values(dtype_, 1, k_);
    FillDummy({.key = key, .first = row * k_}, values.view(), DeviceStream::Cpu());
    return values.Row(0);
  }

  // Σ x[i] · w[i] with what may be missing from it, rounded to `out`.
  Expected Dot(const std::vector<double>& x, int64_t weight_row, DType out) const {
    const std::vector<double> w = Row(kWeightKey, weight_row);
    double sum = 0;
    double norm = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      sum += x[i] * w[i];
      norm += std::fabs(x[i] * w[i]);
    }
    const double factor = 8 * std::sqrt(static_cast<double>(k_)) + 8;
    return {sum, factor * UnitRoundoff(DType::kFloat32) * norm +
                     1.01 * UnitRoundoff(out) * std::fabs(sum) + SmallestStep(out)};
  }

  void CheckElement(int64_t t, int64_t n, const std::vector<double>& x) const {
    const bool gated = weight_rows_ != out_.cols();
    const Expected expected = gated ? SwiGluOf(Dot(x, n, dtype_), Dot(x, out_.cols() + n, dtype_),
                                               Device::kCuda, out_.dtype())
                                    : Dot(x, n, out_.dtype());
    EXPECT_NEAR(out_.at(t, n), expected.value, expected.tolerance)
        << "token " << t << ", feature " << n << " of " << out_.rows() << " x " << out_.cols()
        << " x " << k_;
  }

  DType dtype_;
  int64_t k_;
  int64_t weight_rows_;
  Tensor out_;
};

class MatmulPathTest : public testing::TestWithParam<std::tuple<MatmulPath, DType>> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(Target{.device = Device::kCuda}); }
};

TEST_P(MatmulPathTest, TakesTilesAndTheirRemainders) {
  const MatmulPath path = std::get<0>(GetParam());
  const DType dtype = std::get<1>(GetParam());
  for (const int64_t tokens : {1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 65, 128, 129, 300}) {
    for (const auto& [features, k] :
         {std::pair<int64_t, int64_t>{8, 8}, {63, 72}, {64, 64}, {200, 520}, {130, 1096}}) {
      for (const DType out : {dtype, DType::kFloat32}) {
        DummyProduct product(dtype, out, tokens, features, k);
        bool can = false;
        product.Run(false, [&](const MatmulArgs& args, CudaStream& stream) {
          can = CanMultiply(path, args, stream);
          if (can) MultiplyBy(path, args, stream);
        });
        if (!can) continue;
        product.Check();
        EXPECT_TRUE(product.IsWhole()) << tokens << " x " << k << " to " << features;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(cuda, MatmulPathTest,
                         testing::Combine(testing::ValuesIn(kPaths), testing::ValuesIn(kAllDTypes)),
                         [](const auto& info) {
                           return std::string(NameOf(std::get<0>(info.param))) + "_" +
                                  NameOf(std::get<1>(info.param));
                         });

class MatmulCudaTest : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { CARAVAN_SKIP_WITHOUT(Target{.device = Device::kCuda}); }
};

TEST_P(MatmulCudaTest, TilesMayBeSplitOverClusters) {
  if (GetParam() == DType::kFloat32) GTEST_SKIP() << "no tiles";
  for (const int splits : {1, 2, 4, 8}) {
    for (const int64_t tokens : {1, 9, 24, 61}) {
      for (const int64_t k : {64, 1000, 4096}) {
        DummyProduct product(GetParam(), GetParam(), tokens, 328, k);
        bool can = true;
        product.Run(false, [&](const MatmulArgs& args, CudaStream& stream) {
          can = splits == 1 || stream.device().compute_capability >= 90;
          if (can) MultiplyTiled(args, splits, stream);
        });
        if (!can) continue;
        product.Check();
        EXPECT_TRUE(product.IsWhole()) << splits << " splits, " << tokens << " tokens";
      }
    }
  }
}

// Those of LLaMA 7B and LLaMA 3 8B.
TEST_P(MatmulCudaTest, AgreesWithFloat64AtRealSizes) {
  const auto check = [&](int64_t tokens, int64_t features, int64_t k) {
    for (const bool batch_invariant : {false, true}) {
      DummyProduct product(GetParam(), GetParam(), tokens, features, k);
      product.Run(batch_invariant, [&](const MatmulArgs& args, CudaStream& stream) {
        Matmul(args.x, args.weight, args.bias, args.out, DeviceStream::Cuda(stream));
      });
      product.Check();
      EXPECT_TRUE(product.IsWhole()) << tokens << " x " << k << " to " << features;
    }
  };
  for (const int64_t tokens : {1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 128, 300}) {
    check(tokens, 4096, 4096);
  }
  for (const int64_t tokens : {1, 8, 33}) {
    check(tokens, 22016, 4096);
    check(tokens, 4096, 11008);
    check(tokens, 4096, 14336);
  }
  check(300, 22016, 512);
  check(1, 32000, 4096);
  check(2, 128256, 4096);
}

TEST_P(MatmulCudaTest, RowsOfARealSizeDoNotDependOnTheirNumber) {
  const auto multiply = [](const MatmulArgs& args, CudaStream& stream) {
    Matmul(args.x, args.weight, args.bias, args.out, DeviceStream::Cuda(stream));
  };
  // Narrow with long sums, and wide enough for the largest tiles.
  for (const auto& [features, k] : {std::pair<int64_t, int64_t>{1000, 4096}, {9000, 512}}) {
    DummyProduct all(GetParam(), GetParam(), 300, features, k);
    all.Run(true, multiply);
    for (const int64_t tokens : {1, 2, 8, 9, 16, 17, 64, 65, 128, 129, 256}) {
      DummyProduct some(GetParam(), GetParam(), tokens, features, k);
      some.Run(true, multiply);
      for (int64_t t = 0; t < tokens; ++t) {
        ASSERT_EQ(some.out().Bits(t), all.out().Bits(t)) << "row " << t << " of " << tokens;
      }
    }
  }
}

TEST_P(MatmulCudaTest, StreamsMayBeDividedInAnyWay) {
  for (const int groups : {1, 2, 3, 4}) {
    for (const int splits : {1, 2, 4}) {
      for (const int64_t tokens : {1, 9, 24, 61}) {
        for (const auto& [features, k] : {std::pair<int64_t, int64_t>{328, 4096}, {40000, 520}}) {
          DummyProduct product(GetParam(), GetParam(), tokens, features, k);
          bool can = true;
          product.Run(false, [&](const MatmulArgs& args, CudaStream& stream) {
            can = CanMultiply(MatmulPath::kStreamed, args, stream);
            if (can) {
              MultiplyStreamed(
                  args,
                  {.groups = groups, .splits = splits, .panels = 1 + groups % 2, .input_slots = 2},
                  stream);
            }
          });
          if (!can) GTEST_SKIP() << "not on this device, or not for this dtype";
          product.Check();
          EXPECT_TRUE(product.IsWhole())
              << groups << " groups, " << splits << " splits, " << tokens << " tokens";
        }
      }
    }
  }
}

// One behind the other: each starts before the one before has ended.
TEST_P(MatmulCudaTest, StreamedBitsDependOnTheRowAlone) {
  for (const auto& [features, k] :
       {std::pair<int64_t, int64_t>{4096, 4096}, {12288, 4096}, {1000, 2048}, {128, 8192}}) {
    const auto run = [&](DummyProduct& product, int repetitions) {
      bool can = false;
      product.Run(false, [&](const MatmulArgs& args, CudaStream& stream) {
        can = CanMultiply(MatmulPath::kStreamed, args, stream);
        for (int i = 0; can && i < repetitions; ++i) {
          MultiplyStreamed(args, {.groups = 3, .splits = 4}, stream);
        }
      });
      return can;
    };
    DummyProduct all(GetParam(), GetParam(), cuda::kMaxStreamedTokens, features, k);
    if (!run(all, 1)) GTEST_SKIP() << "not on this device, or not for this dtype";
    for (const int64_t tokens : {1, 2, 8, 9, 16, 17, 31, 32, 33, 63, 64}) {
      DummyProduct some(GetParam(), GetParam(), tokens, features, k);
      run(some, 50);
      for (int64_t t = 0; t < tokens; ++t) {
        ASSERT_EQ(some.out().Bits(t), all.out().Bits(t)) << "row " << t << " of " << tokens;
      }
    }
  }
}

TEST_P(MatmulCudaTest, StreamedGateAgreesWithFloat64) {
  for (const auto& [intermediate, k] :
       {std::pair<int64_t, int64_t>{8, 64}, {200, 520}, {1376, 4096}, {11008, 4096}}) {
    for (const int64_t tokens : {1, 7, 8, 16, 17, 33, 64}) {
      for (const DType out : {GetParam(), DType::kFloat32}) {
        DummyProduct product(GetParam(), out, tokens, intermediate, k, 2 * intermediate);
        bool can = false;
        product.Run(false, [&](const MatmulArgs& args, CudaStream& stream) {
          can = CanMultiply(MatmulPath::kStreamed, args, stream);
          if (can) MultiplyStreamed(args, PlanStreamed(args, stream), stream);
        });
        if (!can) GTEST_SKIP() << "not on this device, or not for this dtype";
        product.Check();
        EXPECT_TRUE(product.IsWhole()) << tokens << " x " << k << " to " << intermediate;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(cuda, MatmulCudaTest, testing::ValuesIn(kAllDTypes),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

}  // namespace
}  // namespace caravan

#endif  // CARAVAN_HAS_CUDA
