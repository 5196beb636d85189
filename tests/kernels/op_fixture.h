// What the operators' tests share: tensors of any dtype with poisoned memory, random inputs, and
// the comparison against a float64 reference.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu_backend.h"
#include "kernels/view.h"

namespace caravan {

inline constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

// Half the distance between neighbours at 1: the relative error of one rounding.
double UnitRoundoff(DType dtype);
// The smallest step between numbers near 0 (float16 has a coarse one).
double SmallestStep(DType dtype);

// The instruction sets that this machine can run.
std::vector<CpuIsa> RunnableIsas();

// Runs the operators with one instruction set for as long as it lives.
class ScopedIsa {
 public:
  explicit ScopedIsa(CpuIsa isa) : before_(ActiveCpuIsa()) { SetCpuIsa(isa); }
  ~ScopedIsa() { SetCpuIsa(before_); }
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  CpuIsa before_;
};

// Runs the operators on a number of threads for as long as it lives.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads) : before_(CpuThreads()) { SetCpuThreads(threads); }
  ~ScopedThreads() { SetCpuThreads(before_); }
  ScopedThreads(const ScopedThreads&) = delete;
  ScopedThreads& operator=(const ScopedThreads&) = delete;

 private:
  int before_;
};

// A matrix that owns its memory. Every byte is 0xFF at first, which is NaN in every dtype, and
// there are such guard elements after each row.
class Tensor {
 public:
  Tensor(DType dtype, int64_t rows, int64_t cols, int64_t padding = 0);

  static Tensor Random(DType dtype, int64_t rows, int64_t cols, uint64_t seed,
                       int64_t padding = 0);  // standard normal

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }

  double at(int64_t r, int64_t c) const;
  void Set(int64_t r, int64_t c, double value);  // rounded to the dtype
  std::vector<double> Row(int64_t r) const;

  MatrixView view() { return {bytes_.data(), dtype_, rows_, cols_, stride_}; }
  ConstMatrixView view() const { return {bytes_.data(), dtype_, rows_, cols_, stride_}; }
  ConstVectorView vector() const { return {bytes_.data(), dtype_, cols_}; }  // of row 0
  WeightView weight() const;                                                 // without padding only

  // Raw bytes of some columns of a row, for comparisons bit by bit.
  std::string Bits(int64_t r) const;
  bool GuardsAreIntact() const;

 private:
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  std::vector<unsigned char> bytes_;
};

// expected(r, c) and the error that is allowed there.
struct Expected {
  double value = 0;
  double tolerance = 0;
};

// Every element is within its tolerance; else reports the worst one, by error / tolerance.
testing::AssertionResult IsClose(const Tensor& actual,
                                 const std::function<Expected(int64_t, int64_t)>& expected);

}  // namespace caravan
