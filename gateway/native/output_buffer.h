// What one request has to say to a client that may be slower than the model.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "caravan/v1/generation.pb.h"
#include "gateway/config.h"
#include "gateway/generation/output_sink.h"
#include "gateway/native/translate.h"

namespace caravan {

// Events in, merged messages out: whatever has come since the last message is one message a sample.
// Not thread-safe.
class OutputBuffer {
 public:
  // What beams bring in one burst is kept beside what `limits` allow.
  OutputBuffer(const OutputLimits& limits, OutputView view, const ValidatedRequest& request);

  void Add(const StartedInfo& started);
  // RESOURCE_EXHAUSTED once more is buffered than the limits allow (the chunk is taken all the
  // same: the request ends after it).
  absl::Status Add(OutputChunk chunk);
  void Add(SampleEnd end);

  // From the first call on, tokens leave only against credit.
  void AddCredit(uint64_t tokens) { credit_ = credit_.value_or(0) + tokens; }
  // Forgets the tokens that have not left, ends stay: nobody wants them any more.
  void DropChunks();
  // As DropChunks, and the samples whose end has not left end with this error instead.
  void Abandon(const absl::Status& status);

  // A message can leave now.
  bool HasNext() const;
  // REQUIRES: HasNext(). At most about kMaxMessageBytes, samples by turns.
  v1::GenerateResponse Next();

  // Nothing is left, with or without credit.
  bool empty() const;
  int buffered_tokens() const { return buffered_tokens_; }

 private:
  struct SampleQueue {
    std::deque<OutputChunk> chunks;
    std::optional<SampleEnd> end;
  };

  static constexpr size_t kMaxMessageBytes = 16 << 10;

  static size_t BytesOf(const OutputChunk& chunk);
  bool CanLeave(const OutputChunk& chunk) const {
    return !chunk.has_token || credit_.value_or(1) > 0;
  }
  bool HasNext(const SampleQueue& sample) const;
  void Take(SampleQueue* sample, v1::TokenEvent* event);

  const OutputLimits limits_;
  const OutputView view_;
  std::optional<StartedInfo> started_;
  std::vector<SampleQueue> samples_;
  size_t turn_ = 0;  // the sample to serve next
  std::optional<uint64_t> credit_;
  int buffered_tokens_ = 0;
  size_t buffered_bytes_ = 0;
};

}  // namespace caravan
