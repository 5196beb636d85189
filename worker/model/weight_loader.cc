#include "worker/model/weight_loader.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_join.h"
#include "common/status.h"
#include "worker/model/dummy_weights.h"
#include "worker/model/tensor_copy.h"

namespace caravan {
namespace {

constexpr int64_t kChunkBytes = 4 << 20;
constexpr size_t kPrefetchChunks = 8;  // how far reading runs ahead of copying
constexpr size_t kMaxErrors = 20;

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

// Runs fill(chunks, i) for each chunk i on several threads.
void ForEachChunk(const std::vector<WeightPiece>& pieces, const LoadThreads& threads,
                  const std::function<void(const std::vector<Chunk>&, size_t)>& fill) {
  const std::vector<Chunk> chunks = CutIntoChunks(pieces);
  int64_t total = 0;
  for (const WeightPiece& piece : pieces) total += piece.target_bytes();
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  int64_t done = 0;
  const auto work = [&] {
    for (size_t i = next++; i < chunks.size(); i = next++) {
      fill(chunks, i);
      const WeightPiece& piece = *chunks[i].piece;
      const std::lock_guard lock(mutex);
      done += chunks[i].rows.count * piece.cols.count * SizeOf(piece.dtype);
      if (threads.progress) threads.progress(done, total);
    }
  };
  int32_t count = threads.count;
  if (count <= 0) count = static_cast<int32_t>(std::thread::hardware_concurrency());
  count = std::clamp<int32_t>(count, 1, static_cast<int32_t>(std::max<size_t>(chunks.size(), 1)));
  std::vector<std::thread> helpers;
  for (int32_t i = 1; i < count; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

// The chunk's rows within the whole tensor.
Slice RowsOf(const Chunk& chunk) {
  return {chunk.piece->rows.begin + chunk.rows.begin, chunk.rows.count};
}

void Prefetch(const TensorInfo& tensor, const Chunk& chunk) {
  PrefetchElements(tensor, RowsOf(chunk), chunk.piece->cols);
}

void CopyChunk(const TensorInfo& tensor, const Chunk& chunk) {
  const WeightPiece& piece = *chunk.piece;
  auto* to = static_cast<std::byte*>(piece.target) +
             chunk.rows.begin * piece.cols.count * SizeOf(piece.dtype);
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

void LoadPieces(const Checkpoint& checkpoint, const std::vector<WeightPiece>& pieces,
                const LoadThreads& threads) {
  const auto tensor_of = [&](const Chunk& chunk) -> const TensorInfo& {
    return *checkpoint.tensors().at(chunk.piece->name).tensor;
  };
  ForEachChunk(pieces, threads, [&](const std::vector<Chunk>& chunks, size_t i) {
    const size_t ahead = i + kPrefetchChunks;
    if (ahead < chunks.size()) Prefetch(tensor_of(chunks[ahead]), chunks[ahead]);
    CopyChunk(tensor_of(chunks[i]), chunks[i]);
  });
}

void FillDummyPieces(const std::vector<WeightPiece>& pieces, const LoadThreads& threads) {
  ForEachChunk(pieces, threads, [](const std::vector<Chunk>& chunks, size_t i) {
    const WeightPiece& piece = *chunks[i].piece;
    const uint64_t key = DummyKey(piece.name);
    auto* target = static_cast<std::byte*>(piece.target) +
                   chunks[i].rows.begin * piece.cols.count * SizeOf(piece.dtype);
    for (int64_t row = 0; row < chunks[i].rows.count; ++row) {
      const int64_t whole_row = piece.rows.begin + chunks[i].rows.begin + row;
      const int64_t first = whole_row * piece.whole_cols() + piece.cols.begin;
      if (piece.is_norm) {
        FillOnes(piece.dtype, piece.cols.count, target);
      } else {
        FillDummy(key, first, piece.dtype, piece.cols.count, target);
      }
      target += piece.cols.count * SizeOf(piece.dtype);
    }
  });
}

}  // namespace caravan
