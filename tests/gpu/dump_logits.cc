// What a model answers to given tokens, for a comparison with another implementation
// (tests/gpu/whole_model.py).
//   dump_logits MODEL DTYPE DEVICE IDS WANTED OUT CHUNK DECODE_FROM
// IDS holds one sequence of int32 ids. Positions below DECODE_FROM run in chunks of CHUNK tokens,
// the others one by one, as decoding does. OUT.argmax gets an int32 a position, the id of the
// greatest logit (the lowest of equals); OUT.logits float32 rows [vocabulary] of the positions that
// WANTED lists, ascending.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "common/status.h"
#include "kernels/device/device_memory.h"
#include "worker/model/loading/load_llama.h"

namespace caravan {
namespace {

constexpr int32_t kBlockTokens = 16;

template <typename T>
std::vector<T> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  CARAVAN_CHECK(file, "can't read ", path);
  std::vector<T> values(static_cast<size_t>(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(T)));
  return values;
}

// int32 values in memory of the stream's device.
class Ids {
 public:
  Ids(const std::vector<int32_t>& values, DeviceStream stream) : size_(values.size()) {
    const auto bytes = static_cast<int64_t>(size_ * sizeof(int32_t));
    memory_ = *ModelMemory::Allocate(stream, bytes, "ids");
    CopyFromHost(memory_.data(), values.data(), bytes, stream);
  }
  std::span<const int32_t> span() const {
    return {static_cast<const int32_t*>(memory_.data()), size_};
  }

 private:
  size_t size_;
  ModelMemory memory_;
};

class Sequence {
 public:
  Sequence(LlamaModel* model, std::vector<int32_t> ids)
      : model_(model),
        stream_(model->stream()),
        ids_(std::move(ids)),
        blocks_(Blocks(ids_.size()), stream_) {
    const KvMemoryOptions options = {kBlockTokens, static_cast<int32_t>(blocks_.span().size()), 0,
                                     model->dtype(), stream_};
    auto kv = KvMemory::Allocate(model->config(), model->layout(), options);
    CARAVAN_CHECK(kv.ok(), std::string(kv.status().message()));
    kv_ = *std::move(kv);
  }

  // Logits of `count` positions from `begin` on, whose predecessors have been run.
  std::vector<float> Run(int32_t begin, int32_t count) {
    std::vector<int32_t> positions(static_cast<size_t>(count));
    std::vector<int32_t> rows(positions.size());
    for (int32_t i = 0; i < count; ++i) {
      positions[static_cast<size_t>(i)] = begin + i;
      rows[static_cast<size_t>(i)] = i;
    }
    const Ids ids({ids_.begin() + begin, ids_.begin() + begin + count}, stream_);
    const Ids ropes(positions, stream_);
    const Ids wanted(rows, stream_);
    const Ids starts({0, count}, stream_);
    const Ids lengths({begin + count}, stream_);
    PagedBatch paged = {starts.span(), lengths.span(), blocks_.span().data(),
                        static_cast<int64_t>(blocks_.span().size())};
    paged.num_decodes = count == 1 ? 1 : 0;
    SingleRankCollectives ranks;
    const auto logits =
        model_->Forward({ids.span(), ropes.span(), paged, wanted.span()}, kv_, ranks, stream_);
    CARAVAN_CHECK(logits.ok(), std::string(logits.status().message()));
    std::vector<float> values(static_cast<size_t>(logits->rows * logits->cols));
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
    if (stream_.device() == Device::kCuda) {
      CopyToHost(values.data(), logits->data, bytes, stream_.cuda());
      stream_.cuda().Synchronize();
    } else {
      std::copy_n(static_cast<const float*>(logits->data), values.size(), values.begin());
    }
    return values;
  }

 private:
  // In an order of their own.
  static std::vector<int32_t> Blocks(size_t tokens) {
    std::vector<int32_t> blocks((tokens + kBlockTokens - 1) / kBlockTokens);
    for (size_t i = 0; i < blocks.size(); ++i) {
      blocks[i] = static_cast<int32_t>(blocks.size() - 1 - i);
    }
    return blocks;
  }

  LlamaModel* model_;
  DeviceStream stream_;
  std::vector<int32_t> ids_;
  Ids blocks_;
  KvMemory kv_;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int Main(const std::vector<std::string>& words) {
  if (words.size() != 8) {
    std::fprintf(stderr, "dump_logits MODEL DTYPE DEVICE IDS WANTED OUT CHUNK DECODE_FROM\n");
    return 2;
  }
  const std::vector<int32_t> ids = ReadFile<int32_t>(words[3]);
  const std::vector<int32_t> wanted = ReadFile<int32_t>(words[4]);
  const int chunk = std::atoi(words[6].c_str());
  const int decode_from = std::atoi(words[7].c_str());
  std::unique_ptr<CudaStream> cuda;
  if (words[2] == "cuda") {
    std::string problem;
    cuda = CudaStream::Create({}, &problem);
    CARAVAN_CHECK(cuda != nullptr, problem);
  }
  LoadOptions options;
  options.model_folder = words[0];
  options.dtype = words[1];
  options.stream = cuda == nullptr ? DeviceStream::Cpu() : DeviceStream::Cuda(*cuda);
  options.max_batch_tokens = options.max_logit_rows = chunk;
  auto start = std::chrono::steady_clock::now();
  auto model = LoadLlama(options);
  CARAVAN_CHECK(model.ok(), std::string(model.status().message()));
  std::printf("loaded in %.2f s\n", SecondsSince(start));

  start = std::chrono::steady_clock::now();
  Sequence sequence(model->get(), ids);
  std::ofstream argmax(words[5] + ".argmax", std::ios::binary);
  std::ofstream logits(words[5] + ".logits", std::ios::binary);
  const int32_t vocab = (*model)->config().vocab_size;
  const auto tokens = static_cast<int32_t>(ids.size());
  for (int32_t begin = 0; begin < tokens;) {
    const int32_t count = begin < decode_from ? std::min(chunk, decode_from - begin) : 1;
    const std::vector<float> values = sequence.Run(begin, count);
    for (int32_t i = 0; i < count; ++i) {
      const float* row = values.data() + int64_t{i} * (*model)->layout().padded_vocab;
      const auto best = static_cast<int32_t>(std::max_element(row, row + vocab) - row);
      argmax.write(reinterpret_cast<const char*>(&best), sizeof(best));
      if (!std::binary_search(wanted.begin(), wanted.end(), begin + i)) continue;
      logits.write(reinterpret_cast<const char*>(row),
                   static_cast<std::streamsize>(vocab * sizeof(float)));
    }
    begin += count;
  }
  std::printf("%d positions in %.2f s\n", tokens, SecondsSince(start));
  return argmax.flush() && logits.flush() ? 0 : 1;
}

}  // namespace
}  // namespace caravan

int main(int argc, char** argv) { return caravan::Main({argv + 1, argv + argc}); }
