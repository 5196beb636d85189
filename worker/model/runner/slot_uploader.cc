#include "worker/model/runner/slot_uploader.h"

#include <algorithm>

#include "common/status.h"

namespace caravan {

SlotUploader::SlotUploader(StepBuffers* buffers, int32_t max_slots, DeviceStream stream)
    : buffers_(buffers),
      stream_(stream),
      updates_({}),
      changed_(static_cast<size_t>(max_slots) * kArrays) {}

void SlotUploader::Begin(StepBuffers::Staging* staging) {
  staging_ = staging;
  int32_t* words =
      reinterpret_cast<int32_t*>(staging->upload.as<std::byte>() + buffers_->words_offset());
  updates_ = SlotUpdateBuffer({words, static_cast<size_t>(StepMemory::kUpdateWords)});
  for (const size_t i : touched_) changed_[i] = {};
  touched_.clear();
}

void SlotUploader::Change(SlotArray array, int32_t slot, int32_t offset,
                          std::span<const int32_t> words) {
  while (!words.empty()) {
    Range* range = &changed(array, slot);
    const auto size = static_cast<int64_t>(words.size());
    const bool overlaps = offset < range->end && offset + size > range->begin;
    if (overlaps || updates_.room() < std::min<int64_t>(size, StepMemory::kUpdateWords / 2)) {
      SendPart();
    }
    const int64_t count = std::min(size, updates_.room());
    updates_.Add(array, slot, offset, words.first(static_cast<size_t>(count)));
    const auto end = static_cast<int32_t>(offset + count);
    if (range->begin == range->end) {
      *range = {offset, end};
      touched_.push_back(static_cast<size_t>(range - changed_.data()));
    } else {
      *range = {std::min(range->begin, offset), std::max(range->end, end)};
    }
    offset = end;
    words = words.subspan(static_cast<size_t>(count));
  }
}

void SlotUploader::Send(std::span<const StepRow> rows) {
  std::copy(rows.begin(), rows.end(), staging_->upload.as<StepRow>());
  const SlotUpload upload = updates_.Finish();
  const bool changes = upload.num_updates > 0;
  const auto bytes = changes ? buffers_->words_offset() +
                                   upload.num_words() * static_cast<int64_t>(sizeof(int32_t))
                             : static_cast<int64_t>(rows.size_bytes());
  EnqueueUpload(buffers_->device().rows.data(), staging_->upload.data(), bytes, stream_);
  if (changes) Apply(upload);
}

// The staging memory is written again at once, so the copy must be over.
void SlotUploader::SendPart() {
  const SlotUpload upload = updates_.Finish();
  if (upload.num_updates > 0) {
    CopyFromHost(buffers_->device().words.data(), upload.words,
                 upload.num_words() * static_cast<int64_t>(sizeof(int32_t)), stream_);
    Apply(upload);
  }
  StepBuffers::Staging* staging = staging_;
  Begin(staging);
}

void SlotUploader::Apply(SlotUpload upload) {
  upload.words = buffers_->device().words.data();
  ApplySlotUpdates(buffers_->device().tables, upload, stream_);
}

}  // namespace caravan
