// The ways in which CUDA multiplies. kernels/matmul.cu chooses; tests and benchmarks name one.
#pragma once

#include <cstdint>

#include "kernels/device/cuda_stream.h"
#include "kernels/matmul.h"
#include "kernels/view.h"

namespace caravan::cuda {

// The arguments of Matmul, whose shapes have been checked; out is not empty.
struct MatmulArgs {
  ConstMatrixView x;
  WeightView weight;
  ConstVectorView bias;
  MatrixView out;
};

enum class MatmulPath : uint8_t {
  kGeneric,   // any dtypes, sizes and alignments
  kVector,    // few tokens: each weight goes through a register once, no tensor cores
  kTiled,     // fp16 and bf16 on tensor cores; one order of summation whatever the tokens, if asked
  kStreamed,  // few tokens, fp16 and bf16 on sm_90: weights stream through rings in shared memory
  kCublas,    // many tokens
};
const char* NameOf(MatmulPath path);

// Whether a path can multiply these dtypes, alignments and sizes on the stream's device at all.
bool CanMultiply(MatmulPath path, const MatmulArgs& args, const CudaStream& stream);
// The path that Matmul takes: the fastest one that can, or on a batch-invariant stream one whose
// row results do not depend on the number of tokens.
MatmulPath ChoosePath(const MatmulArgs& args, const CudaStream& stream);
// REQUIRES: CanMultiply(path, args, stream). The order of summation depends on
// stream.batch_invariant().
void MultiplyBy(MatmulPath path, const MatmulArgs& args, CudaStream& stream);

// What MultiplyBy calls.
inline constexpr int64_t kMaxVectorTokens = 2;
void MultiplyGeneric(const MatmulArgs& args, CudaStream& stream);
void MultiplyVector(const MatmulArgs& args, CudaStream& stream);
// `splits` blocks share the inner dimension of a tile of up to 32 tokens: a power of two up to 8 on
// sm_90, else 1; 0 chooses, and on a batch-invariant stream chooses 1.
void MultiplyTiled(const MatmulArgs& args, int splits, CudaStream& stream);
// How MultiplyStreamed divides its work. A block copies chunks of 64 · groups rows of weights and
// 64 · panels inner elements, and as many elements of all tokens, into rings of shared memory.
struct StreamedPlan {
  int groups = 2;  // warpgroups that multiply, 1 to 4
  int splits = 1;  // blocks of a cluster that share the inner dimension of a tile: 1, 2 or 4
  int panels = 2;
  int input_slots = 4;
  int shared_bytes = 208 * 1024;  // leaves room for the small kernels between two products
  int pace = 13;  // bytes a clock that a block asks for before the predecessor's end; 0: no limit
};
// The fastest known one, which depends on sizes alone.
StreamedPlan PlanStreamed(const MatmulArgs& args, const CudaStream& stream);
inline constexpr int64_t kMaxStreamedTokens = 64;
// Where the weights have twice as many features as `out`, they are a gate and what it gates, and
// out is their SwiGlu; each half must then have a multiple of eight features.
void MultiplyStreamed(const MatmulArgs& args, const StreamedPlan& plan, CudaStream& stream);
void MultiplyCublas(const MatmulArgs& args, CudaStream& stream);
// Looks for the algorithm that MultiplyCublas will take. Only shapes, strides, dtypes and whether
// there is a bias matter; no data is touched.
void PrepareCublas(const MatmulArgs& args, CudaStream& stream);

// x and weight have one dtype, and rows of both begin on 16 bytes.
bool InputsAreAligned(const MatmulArgs& args);

}  // namespace caravan::cuda
