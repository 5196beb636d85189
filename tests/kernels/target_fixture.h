// Where an operator's test runs: on the CPU with one instruction set, or on the GPU. One test body
// serves all:
//   TargetRun run(GetParam().target);
//   RmsNorm(run.In(x), run.In(weight.vector()), epsilon, run.Out(out), run.stream());
//   run.Finish();  // now `out` holds the result
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/device/cuda_stream.h"
#include "kernels/device/device_memory.h"
#include "kernels/device_stream.h"
#include "tests/kernels/op_fixture.h"

namespace caravan {

struct Target {
  Device device = Device::kCpu;
  CpuIsa isa = CpuIsa::kPortable;  // kCpu
  bool batch_invariant = false;    // kCuda
};
std::string NameOf(const Target& target);  // "avx2", "cuda", "cuda_batch_invariant"

// The CPU with each instruction set that this machine can run, then the GPU: its cases are there in
// every build with CUDA, and skip where the machine has no GPU.
std::vector<Target> AllTargets();

// CARAVAN_SKIP_WITHOUT(target): for a test's first line (or a fixture's SetUp).
bool IsThere(const Target& target, std::string* why);
#define CARAVAN_SKIP_WITHOUT(target)                                            \
  do {                                                                          \
    std::string caravan_why;                                                    \
    if (!::caravan::IsThere(target, &caravan_why)) GTEST_SKIP() << caravan_why; \
  } while (false)

// silu(gate) · up in float64, and the error that is allowed where `gate` and `up` have errors of
// their own and the operator computes in float32 and rounds to `out`.
Expected SwiGluOf(const Expected& gate, const Expected& up, Device device, DType out);

// One run of operators on a target: gives views in its memory of what lies in host memory.
class TargetRun {
 public:
  explicit TargetRun(const Target& target);
  ~TargetRun();

  DeviceStream stream();

  // Copies to the target; on the CPU the thing itself.
  ConstMatrixView In(const Tensor& tensor);
  ConstVectorView In(ConstVectorView vector);
  WeightView In(WeightView weight);
  template <typename T>
  std::span<const T> In(const std::vector<T>& values) {
    return {static_cast<const T*>(Copy(values.data(), values.size() * sizeof(T), nullptr)),
            values.size()};
  }

  // The same, and Finish copies back, with the guards and whatever the operator did not write.
  MatrixView Out(Tensor& tensor);
  template <typename T>
  std::span<T> Out(std::vector<T>& values) {
    return {static_cast<T*>(
                const_cast<void*>(Copy(values.data(), values.size() * sizeof(T), values.data()))),
            values.size()};
  }
  // Any memory: `back` is null where it need not come back.
  const void* Copy(const void* host, size_t bytes, void* back);

  // Waits for the target and copies the outputs back.
  void Finish();

 private:
  struct Copied {
    DeviceMemory device;
    void* back;
    size_t bytes;
  };

  const CpuIsa isa_before_;
  std::unique_ptr<CudaStream> cuda_;  // null on the CPU
  std::vector<Copied> copied_;
};

}  // namespace caravan
