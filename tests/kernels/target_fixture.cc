#include "tests/kernels/target_fixture.h"

#include <cmath>

#include "kernels/check.h"

namespace caravan {

std::string NameOf(const Target& target) {
  if (target.device == Device::kCpu) return NameOf(target.isa);
  return target.batch_invariant ? "cuda_batch_invariant" : "cuda";
}

std::vector<Target> AllTargets() {
  std::vector<Target> targets;
  for (const CpuIsa isa : RunnableIsas()) targets.push_back({Device::kCpu, isa, false});
#ifdef CARAVAN_HAS_CUDA
  targets.push_back({Device::kCuda, BestCpuIsa(), false});
  targets.push_back({Device::kCuda, BestCpuIsa(), true});
#endif
  return targets;
}

bool IsThere(const Target& target, std::string* why) {
  return target.device == Device::kCpu || !FindCudaDevices(why).empty();
}

TargetRun::TargetRun(const Target& target) : isa_before_(ActiveCpuIsa()) {
  if (target.device == Device::kCpu) {
    SetCpuIsa(target.isa);
    return;
  }
  std::string problem;
  cuda_ = CudaStream::Create({.batch_invariant = target.batch_invariant}, &problem);
  CARAVAN_CHECK(cuda_ != nullptr, problem);
}

TargetRun::~TargetRun() { SetCpuIsa(isa_before_); }

DeviceStream TargetRun::stream() {
  return cuda_ == nullptr ? DeviceStream::Cpu() : DeviceStream::Cuda(*cuda_);
}

const void* TargetRun::Copy(const void* host, size_t bytes, void* back) {
  if (cuda_ == nullptr || bytes == 0) return host;
  DeviceMemory memory = DeviceMemory::Allocate(static_cast<int64_t>(bytes));
  CARAVAN_CHECK(memory.data() != nullptr, bytes, " bytes on the GPU");
  CopyToDevice(memory.data(), host, static_cast<int64_t>(bytes), *cuda_);
  cuda_->Synchronize();
  copied_.push_back({std::move(memory), back, bytes});
  return copied_.back().device.data();
}

ConstMatrixView TargetRun::In(const Tensor& tensor) {
  ConstMatrixView view = tensor.view();
  view.data = Copy(view.data, static_cast<size_t>(view.rows * view.row_stride * SizeOf(view.dtype)),
                   nullptr);
  return view;
}

ConstVectorView TargetRun::In(ConstVectorView vector) {
  if (vector.empty()) return vector;
  vector.data = Copy(vector.data, static_cast<size_t>(vector.size * SizeOf(vector.dtype)), nullptr);
  return vector;
}

WeightView TargetRun::In(WeightView weight) {
  weight.data =
      Copy(weight.data,
           static_cast<size_t>(weight.out_features * weight.in_features * SizeOf(weight.dtype)),
           nullptr);
  return weight;
}

// The exponential is within 4 u on the CPU (polynomial and scaling, unfused), its argument is
// exact; on CUDA within 2 + 1.16 |gate| steps of 2^-23 (CUDA C++ Programming Guide, __expf). One
// addition, one division, one product and the rounding to the output follow. Below -87 the
// exponential saturates at e^88 or beyond, so that silu(z) is at most |z| · 1e-38 instead of 0. The
// slope of silu is at most 1.1.
Expected SwiGluOf(const Expected& gate, const Expected& up, Device device, DType out) {
  const double silu = gate.value / (1 + std::exp(-gate.value));
  const double inputs =
      1.1 * gate.tolerance * (std::fabs(up.value) + up.tolerance) + std::fabs(silu) * up.tolerance;
  const double exponential = device == Device::kCuda ? 2 * (2 + 1.16 * std::fabs(gate.value)) : 4;
  const double relative =
      (exponential + 4) * UnitRoundoff(DType::kFloat32) + 1.01 * UnitRoundoff(out);
  const double value = silu * up.value;
  return {value, inputs + (std::fabs(value) + inputs) * relative + SmallestStep(out) +
                     std::fabs(gate.value * up.value) * 1e-38};
}

MatrixView TargetRun::Out(Tensor& tensor) {
  MatrixView view = tensor.view();
  view.data = const_cast<void*>(Copy(
      view.data, static_cast<size_t>(view.rows * view.row_stride * SizeOf(view.dtype)), view.data));
  return view;
}

void TargetRun::Finish() {
  if (cuda_ == nullptr) return;
  cuda_->Synchronize();
  for (const Copied& copied : copied_) {
    if (copied.back == nullptr) continue;
    CopyToHost(copied.back, copied.device.data(), static_cast<int64_t>(copied.bytes), *cuda_);
  }
  cuda_->Synchronize();
}

}  // namespace caravan
