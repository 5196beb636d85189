#include "tests/worker/model/runner/model_target_fixture.h"

#include <cstring>

#include "common/status.h"
#include "kernels/device/device_memory.h"

namespace caravan {

std::string NameOf(const ModelTarget& target) {
  if (target.device == Device::kCpu) return target.slots_on_device ? "cpu_slots" : "cpu";
  return absl::StrCat("cuda", target.graphs ? "_graphs" : "_eager",
                      target.batch_invariant ? "_invariant" : "");
}

std::vector<ModelTarget> CudaModelTargets() {
  std::vector<ModelTarget> targets;
#ifdef CARAVAN_HAS_CUDA
  for (const bool graphs : {false, true}) {
    for (const bool batch_invariant : {false, true}) {
      targets.push_back({Device::kCuda, false, graphs, batch_invariant});
    }
  }
#endif
  return targets;
}

bool IsThere(const ModelTarget& target, std::string* why) {
  return target.device == Device::kCpu || !FindCudaDevices(why).empty();
}

std::unique_ptr<CudaStream> OpenStream(const ModelTarget& target) {
  if (target.device == Device::kCpu) return nullptr;
  std::string problem;
  auto stream = CudaStream::Create({.batch_invariant = target.batch_invariant}, &problem);
  CARAVAN_CHECK(stream != nullptr, problem);
  return stream;
}

LlamaRunnerOptions With(LlamaRunnerOptions options, const ModelTarget& target) {
  options.slots_on_device = target.slots_on_device;
  options.cuda_graphs = target.graphs;
  return options;
}

std::vector<float> FloatsOf(ConstMatrixView matrix, DeviceStream stream) {
  CARAVAN_CHECK(matrix.dtype == DType::kFloat32);
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
  if (values.empty()) return values;
  CARAVAN_CHECK(matrix.row_stride == matrix.cols);
  if (stream.device() == Device::kCpu) {
    std::memcpy(values.data(), matrix.data, static_cast<size_t>(bytes));
  } else {
    CopyToHost(values.data(), matrix.data, bytes, stream.cuda());
    stream.cuda().Synchronize();
  }
  return values;
}

}  // namespace caravan
