// The inner loops of the CPU twins, compiled once for each instruction set.
//
// This header goes into translation units that are compiled for AVX-512, so it holds plain types
// and no inline functions: the linker keeps one copy of an inline function, and it must not keep
// one that older machines can't run.
#pragma once

#include <stdint.h>

namespace caravan::cpu {

// out[r · out_stride + n] = Σ_k x[r · x_stride + k] · w[n · w_stride + k]. Each sum is made in one
// order, whatever rows and cols are: lane k % 16 of 16 accumulators, then a fixed tree.
struct DotArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  const void* w;
  int64_t w_stride;
  int64_t cols;
  int64_t k;
  float* out;
  int64_t out_stride;
};

// acc[r · acc_stride + d] += Σ_j p[r · p_stride + j] · v[j · head_size + d], j < count, in the
// order of j.
struct WeightedSumArgs {
  const float* p;
  int64_t p_stride;
  int64_t rows;
  int64_t count;
  const void* v;
  int64_t head_size;
  float* acc;
  int64_t acc_stride;
};

// The running maximum and sum of one row of an online softmax.
struct SoftmaxState {
  float max;
  float sum;
};

// Arrays of three are indexed by DType. Nothing here allocates, or needs aligned memory.
struct Primitives {
  void (*to_float[3])(const void* in, float* out, int64_t n);
  void (*from_float[3])(const float* in, void* out, int64_t n);  // nearest even; NaN stays NaN
  void (*dot[3])(const DotArgs& args);
  void (*weighted_sum[3])(const WeightedSumArgs& args);
  // scores[j] = e^(scale · scores[j] - m), m the new maximum; returns e^(old maximum - m), by which
  // earlier sums are to be multiplied (that in `state` has been).
  float (*softmax_tile)(float* scores, int64_t n, float scale, SoftmaxState* state);
  void (*add)(const float* a, const float* b, float* out, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  float (*sum_of_squares)(const float* x, int64_t n);
  // out[i] = x[i] · factor · weight[i]
  void (*scale_by)(const float* x, float factor, const float* weight, float* out, int64_t n);
  // out[i] = silu(gate[i]) · up[i]
  void (*silu_multiply)(const float* gate, const float* up, float* out, int64_t n);
  // RopeAppendKv's rotation of one head. `out` may be `x`.
  void (*rotate)(const float* x, const float* cos_sin, float* out, int64_t head_size);
  // out[i] = e^(x[i] - max); returns the sum, in float64 over float32 partial sums.
  double (*exp_sum)(const float* x, float max, float* out, int64_t n);
  // Replaces NaN by -infinity and +infinity by the greatest float; returns the greatest element.
  float (*sanitize_max)(float* x, int64_t n);
};

extern const Primitives kPortablePrimitives;
extern const Primitives kAvx2Primitives;    // x86-64 only
extern const Primitives kAvx512Primitives;  // x86-64 only

// Of ActiveCpuIsa().
const Primitives& ActivePrimitives();

}  // namespace caravan::cpu
