#include "worker/model/loading/weight_writer.h"

#include <array>
#include <string>

#include "common/status.h"
#include "kernels/device/cuda_graph.h"
#include "kernels/device/cuda_stream.h"
#include "kernels/device/device_memory.h"
#include "worker/model/host_memory.h"

namespace caravan {
namespace {

class HostWriter final : public WeightWriter {
 public:
  std::byte* Begin(void* target, int64_t) override { return static_cast<std::byte*>(target); }
  void End() override {}
  void Finish() override {}
};

class StagingWriter final : public WeightWriter {
 public:
  static absl::StatusOr<std::unique_ptr<WeightWriter>> Make(int device, int64_t max_bytes) {
    auto writer = std::make_unique<StagingWriter>();
    std::string problem;
    writer->stream_ = CudaStream::Create({.device = device, .workspace_bytes = 0}, &problem);
    if (writer->stream_ == nullptr) return absl::ResourceExhaustedError(problem);
    for (Buffer& buffer : writer->buffers_) {
      buffer.memory = PinnedMemory::Allocate(max_bytes);
      buffer.copied = CudaEvent::Create();
      if (buffer.memory.data() != nullptr) continue;
      return absl::ResourceExhaustedError(
          absl::StrCat("can't lock ", BytesText(max_bytes), " of host memory to load weights"));
    }
    return writer;
  }

  std::byte* Begin(void* target, int64_t bytes) override {
    if (!current_) {  // on the loading thread
      stream_->MakeCurrent();
      current_ = true;
    }
    next_ = (next_ + 1) % buffers_.size();
    buffers_[next_].copied.Wait();
    target_ = target;
    bytes_ = bytes;
    CARAVAN_CHECK(bytes <= buffers_[next_].memory.bytes());
    return buffers_[next_].memory.as<std::byte>();
  }

  void End() override {
    CopyToDevice(target_, buffers_[next_].memory.data(), bytes_, *stream_);
    buffers_[next_].copied.Record(*stream_);
  }

  void Finish() override { stream_->Synchronize(); }

 private:
  struct Buffer {
    PinnedMemory memory;
    CudaEvent copied;
  };

  std::unique_ptr<CudaStream> stream_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
  void* target_ = nullptr;
  int64_t bytes_ = 0;
  bool current_ = false;
};

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<WeightWriter>>> MakeWeightWriters(DeviceStream stream,
                                                                             int32_t count,
                                                                             int64_t max_bytes) {
  std::vector<std::unique_ptr<WeightWriter>> writers;
  for (int32_t i = 0; i < count; ++i) {
    if (stream.device() == Device::kCpu) {
      writers.push_back(std::make_unique<HostWriter>());
      continue;
    }
    ASSIGN_OR_RETURN(std::unique_ptr<WeightWriter> writer,
                     StagingWriter::Make(stream.cuda().device().index, max_bytes));
    writers.push_back(std::move(writer));
  }
  return writers;
}

}  // namespace caravan
