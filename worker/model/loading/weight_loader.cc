#include "worker/model/loading/weight_loader.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_join.h"
#include "common/status.h"
#include "kernels/dummy_fill.h"
#include "worker/model/loading/dummy_weights.h"
#include "worker/model/loading/tensor_copy.h"
#include "worker/model/loading/weight_writer.h"
#include "worker/model/model_memory.h"

namespace caravan {
namespace {

constexpr int64_t kChunkBytes = 4 << 20;
constexpr size_t kPrefetchChunks = 8;  // how far reading runs ahead of copying
constexpr size_t kMaxErrors = 20;
constexpr int32_t kMostGpuThreads = 16;  // they fill a PCIe link

// Rows [begin, begin + count) of a piece's rows.
struct Chunk {
  const WeightPiece* piece;
  Slice rows;
};

std::vector<Chunk> CutIntoChunks(const std::vector<WeightPiece>& pieces) {
  std::vector<Chunk> chunks;
  for (const WeightPiece& piece : pieces) {
    if (piece.target_bytes() == 0) continue;
    const int64_t row_bytes = piece.cols.count * SizeOf(piece.dtype);
    const int64_t step = std::max<int64_t>(1, kChunkBytes / row_bytes);
    for (int64_t row = 0; row < piece.rows.count; row += step) {
      chunks.push_back({&piece, {row, std::min(step, piece.rows.count - row)}});
    }
  }
  return chunks;
}

int64_t TargetBytes(const Chunk& chunk) {
  return chunk.rows.count * chunk.piece->cols.count * SizeOf(chunk.piece->dtype);
}

int32_t CountThreads(const LoadThreads& threads, size_t chunks) {
  int32_t count = threads.count;
  if (count <= 0) {
    count = static_cast<int32_t>(std::thread::hardware_concurrency());
    if (threads.stream.device() == Device::kCuda) count = std::min(count, kMostGpuThreads);
  }
  return std::clamp<int32_t>(count, 1, static_cast<int32_t>(std::max<size_t>(chunks, 1)));
}

// Runs fill(chunks, i, to) for each chunk i on several threads; `to` is where the chunk's dense
// rows are wanted.
absl::Status ForEachChunk(
    const std::vector<WeightPiece>& pieces, const LoadThreads& threads,
    const std::function<void(const std::vector<Chunk>&, size_t, std::byte*)>& fill) {
  const std::vector<Chunk> chunks = CutIntoChunks(pieces);
  int64_t largest = 0;
  for (const Chunk& chunk : chunks) largest = std::max(largest, TargetBytes(chunk));
  ASSIGN_OR_RETURN(
      const auto writers,
      MakeWeightWriters(threads.stream, CountThreads(threads, chunks.size()), largest));
  int64_t total = 0;
  for (const WeightPiece& piece : pieces) total += piece.target_bytes();
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  int64_t done = 0;
  const auto work = [&](WeightWriter& writer) {
    for (size_t i = next++; i < chunks.size(); i = next++) {
      const WeightPiece& piece = *chunks[i].piece;
      const int64_t bytes = TargetBytes(chunks[i]);
      const int64_t row_bytes = piece.cols.count * SizeOf(piece.dtype);
      auto* target = static_cast<std::byte*>(piece.target) + chunks[i].rows.begin * row_bytes;
      fill(chunks, i, writer.Begin(target, bytes));
      writer.End();
      const std::lock_guard lock(mutex);
      done += bytes;
      if (threads.progress) threads.progress(done, total);
    }
    writer.Finish();
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < writers.size(); ++i) {
    helpers.emplace_back([&work, &writer = *writers[i]] { work(writer); });
  }
  work(*writers[0]);
  for (std::thread& helper : helpers) helper.join();
  return absl::OkStatus();
}

// The chunk's rows within the whole tensor.
Slice RowsOf(const Chunk& chunk) {
  return {chunk.piece->rows.begin + chunk.rows.begin, chunk.rows.count};
}

void Prefetch(const TensorInfo& tensor, const Chunk& chunk) {
  PrefetchElements(tensor, RowsOf(chunk), chunk.piece->cols);
}

void CopyChunk(const TensorInfo& tensor, const Chunk& chunk, std::byte* to) {
  const WeightPiece& piece = *chunk.piece;
  CopyElements(tensor, RowsOf(chunk), piece.cols, piece.dtype, to);
}

}  // namespace

absl::Status CheckTensors(const Checkpoint& checkpoint, const std::vector<WeightPiece>& pieces,
                          const std::vector<std::string>& ignored) {
  std::vector<std::string> errors;
  std::set<std::string> known(ignored.begin(), ignored.end());
  for (const WeightPiece& piece : pieces) {
    known.insert(piece.name);
    const std::string expected = absl::StrCat("[", absl::StrJoin(piece.shape, ", "), "]");
    const auto it = checkpoint.tensors().find(piece.name);
    if (it == checkpoint.tensors().end()) {
      errors.push_back(absl::StrCat(checkpoint.description(), ": tensor ", piece.name,
                                    " is missing, expected with shape ", expected));
      continue;
    }
    const TensorInfo& tensor = *it->second.tensor;
    const std::string place =
        absl::StrCat(it->second.file->path(), ": tensor ", piece.name, ": expected ");
    if (tensor.shape != piece.shape) {
      errors.push_back(absl::StrCat(place, "shape ", expected, ", found ", tensor.ShapeText()));
    } else if (!tensor.dtype()) {
      errors.push_back(absl::StrCat(place, "dtype F32, F16 or BF16, found ", tensor.dtype_name));
    }
  }
  for (const auto& [name, entry] : checkpoint.tensors()) {
    // Old checkpoints carry the rotary frequencies, which follow from config.json.
    if (known.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    errors.push_back(absl::StrCat(entry.file->path(), ": tensor ", name, " of shape ",
                                  entry.tensor->ShapeText(),
                                  " is no part of the model that config.json describes"));
  }
  if (errors.empty()) return absl::OkStatus();
  if (errors.size() > kMaxErrors) {
    const size_t more = errors.size() - kMaxErrors;
    errors.resize(kMaxErrors);
    errors.push_back(absl::StrCat("and ", more, " more"));
  }
  return absl::InvalidArgumentError(absl::StrJoin(errors, "\n"));
}

absl::Status LoadPieces(const Checkpoint& checkpoint, const std::vector<WeightPiece>& pieces,
                        const LoadThreads& threads) {
  const auto tensor_of = [&](const Chunk& chunk) -> const TensorInfo& {
    return *checkpoint.tensors().at(chunk.piece->name).tensor;
  };
  const auto copy = [&](const std::vector<Chunk>& chunks, size_t i, std::byte* to) {
    const size_t ahead = i + kPrefetchChunks;
    if (ahead < chunks.size()) Prefetch(tensor_of(chunks[ahead]), chunks[ahead]);
    CopyChunk(tensor_of(chunks[i]), chunks[i], to);
  };
  return ForEachChunk(pieces, threads, copy);
}

namespace {

// On the device itself: nothing has to cross to it.
void FillDummyOnDevice(const std::vector<WeightPiece>& pieces, const LoadThreads& threads) {
  int64_t total = 0;
  int64_t done = 0;
  for (const WeightPiece& piece : pieces) total += piece.target_bytes();
  for (const WeightPiece& piece : pieces) {
    if (piece.target_bytes() == 0) continue;
    if (piece.is_norm) {
      std::vector<std::byte> ones(static_cast<size_t>(piece.target_bytes()));
      FillOnes(piece.dtype, piece.cols.count, ones.data());
      CopyFromHost(piece.target, ones.data(), piece.target_bytes(), threads.stream);
    } else {
      const DummySource source = {.key = DummyKey(piece.name),
                                  .first = piece.rows.begin * piece.whole_cols() + piece.cols.begin,
                                  .stride = piece.whole_cols()};
      const MatrixView target =
          DenseMatrix(piece.target, piece.dtype, piece.rows.count, piece.cols.count);
      FillDummy(source, target, threads.stream);
    }
    done += piece.target_bytes();
    if (threads.progress) threads.progress(done, total);
  }
}

}  // namespace

absl::Status FillDummyPieces(const std::vector<WeightPiece>& pieces, const LoadThreads& threads) {
  if (threads.stream.device() != Device::kCpu) {
    FillDummyOnDevice(pieces, threads);
    return absl::OkStatus();
  }
  const auto fill = [](const std::vector<Chunk>& chunks, size_t i, std::byte* to) {
    const WeightPiece& piece = *chunks[i].piece;
    const uint64_t key = DummyKey(piece.name);
    for (int64_t row = 0; row < chunks[i].rows.count; ++row) {
      const int64_t whole_row = piece.rows.begin + chunks[i].rows.begin + row;
      const int64_t first = whole_row * piece.whole_cols() + piece.cols.begin;
      if (piece.is_norm) {
        FillOnes(piece.dtype, piece.cols.count, to);
      } else {
        FillDummy(key, first, piece.dtype, piece.cols.count, to);
      }
      to += piece.cols.count * SizeOf(piece.dtype);
    }
  };
  return ForEachChunk(pieces, threads, fill);
}

}  // namespace caravan
