#include <cublasLt.h>

#include <algorithm>
#include <cstring>

#include "kernels/device/cuda_check.h"
#include "kernels/device/matmul/paths.h"

namespace caravan::cuda {
namespace {

constexpr int64_t kMaxWorkspaceBytes = int64_t{32} << 20;  // what NVIDIA advises for sm_90

cudaDataType_t CudaType(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return CUDA_R_32F;
    case DType::kFloat16:
      return CUDA_R_16F;
    case DType::kBFloat16:
      return CUDA_R_16BF;
  }
  return CUDA_R_32F;
}

int64_t RoundUp(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Prompts come in chunks of any length: one algorithm serves nearly equal ones, and the steps grow
// with what a choice could still gain.
int64_t GroupOf(int64_t tokens) {
  if (tokens <= 64) return RoundUp(tokens, 8);
  if (tokens <= 256) return RoundUp(tokens, 16);
  if (tokens <= 1024) return RoundUp(tokens, 64);
  return RoundUp(tokens, 256);
}

CublasPlanKey KeyOf(const MatmulArgs& args) {
  return {.tokens = GroupOf(args.x.rows),
          .features = args.out.cols,
          .k = args.x.cols,
          .x_stride = args.x.row_stride,
          .out_stride = args.out.row_stride,
          .input = args.x.dtype,
          .output = args.out.dtype,
          .has_bias = !args.bias.empty()};
}

// The product as cuBLASLt, which is column-major, sees it: outᵀ = W · xᵀ.
struct Product {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t weight;
  cublasLtMatrixLayoutOpaque_t x;
  cublasLtMatrixLayoutOpaque_t out;

  Product(const CublasPlanKey& key, int64_t tokens, const void* bias) {
    const auto k = static_cast<uint64_t>(key.k);
    const auto features = static_cast<uint64_t>(key.features);
    const auto rows = static_cast<uint64_t>(tokens);
    const cudaDataType_t input = CudaType(key.input);
    const cudaDataType_t output = CudaType(key.output);
    CARAVAN_CUBLAS_CHECK(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CARAVAN_CUBLAS_CHECK(cublasLtMatrixLayoutInit(&weight, input, k, features, key.k));
    CARAVAN_CUBLAS_CHECK(cublasLtMatrixLayoutInit(&x, input, k, rows, key.x_stride));
    CARAVAN_CUBLAS_CHECK(cublasLtMatrixLayoutInit(&out, output, features, rows, key.out_stride));
    Set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (!key.has_bias) return;
    Set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, output);
    Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }

  template <typename Value>
  void Set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    CARAVAN_CUBLAS_CHECK(
        cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof(value)));
  }
};

size_t WorkspaceBytes(const CudaStream& stream) {
  return static_cast<size_t>(std::min(kMaxWorkspaceBytes, stream.workspace_bytes()));
}

// The first algorithm of cuBLASLt's heuristics, which measures nothing: the same every time.
// Partial sums are in float32 where it splits the inner dimension.
CublasPlan FindPlan(const CublasPlanKey& key, const void* bias, CudaStream& stream) {
  Product product(key, key.tokens, bias);
  cublasLtMatmulPreferenceOpaque_t preference;
  CARAVAN_CUBLAS_CHECK(cublasLtMatmulPreferenceInit(&preference));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    CARAVAN_CUBLAS_CHECK(
        cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{WorkspaceBytes(stream)});
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(attribute, uint32_t{16});
  }
  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      stream.cublas(), &product.operation, &product.weight, &product.x, &product.out, &product.out,
      &preference, 1, &result, &count);
  CublasPlan plan;
  plan.exists = status == CUBLAS_STATUS_SUCCESS && count == 1;
  static_assert(sizeof(plan.algorithm) == sizeof(result.algo));
  std::memcpy(plan.algorithm.data(), &result.algo, sizeof(result.algo));
  return plan;
}

const CublasPlan& PlanOf(const CublasPlanKey& key, const void* bias, CudaStream& stream) {
  const auto it = stream.cublas_plans().find(key);
  if (it != stream.cublas_plans().end()) return it->second;
  return stream.cublas_plans().emplace(key, FindPlan(key, bias, stream)).first->second;
}

}  // namespace

void PrepareCublas(const MatmulArgs& args, CudaStream& stream) {
  PlanOf(KeyOf(args), args.bias.data, stream);
}

void MultiplyCublas(const MatmulArgs& args, CudaStream& stream) {
  const CublasPlanKey key = KeyOf(args);
  const CublasPlan& plan = PlanOf(key, args.bias.data, stream);
  cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (plan.exists) {
    Product product(key, args.x.rows, args.bias.data);
    cublasLtMatmulAlgo_t algorithm;
    std::memcpy(&algorithm, plan.algorithm.data(), sizeof(algorithm));
    const float one = 1;
    const float zero = 0;
    status = cublasLtMatmul(stream.cublas(), &product.operation, &one, args.weight.data,
                            &product.weight, args.x.data, &product.x, &zero, args.out.data,
                            &product.out, args.out.data, &product.out, &algorithm,
                            stream.workspace(), WorkspaceBytes(stream), stream.handle());
  }
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
    // No algorithm, or it takes the group's largest product alone: the next best path.
    MultiplyBy(
        CanMultiply(MatmulPath::kTiled, args, stream) ? MatmulPath::kTiled : MatmulPath::kGeneric,
        args, stream);
    return;
  }
  CARAVAN_CUBLAS_CHECK(status);
}

}  // namespace caravan::cuda
