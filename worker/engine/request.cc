#include "worker/engine/request.h"

#include <algorithm>

namespace caravan {

const char* NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStopSequence:
      return "stop_sequence";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      return "error";
  }
  return "unknown";
}

FinishReason FinishReasonOf(const SamplingParams& sampling, std::span<const int32_t> tokens,
                            const OutputLength& output) {
  // The runner bans stop ids until min_tokens are there, but not where they are forced otherwise.
  if (output.emitted > sampling.min_tokens) {
    const auto& stops = sampling.stop_token_ids;
    if (std::find(stops.begin(), stops.end(), tokens.back()) != stops.end()) {
      return FinishReason::kStopToken;
    }
    for (const std::vector<int32_t>& stop : sampling.stop_sequences) {
      if (stop.size() > tokens.size()) continue;
      if (std::equal(stop.begin(), stop.end(), tokens.last(stop.size()).begin())) {
        return FinishReason::kStopSequence;
      }
    }
  }
  const bool full = output.emitted >= sampling.max_tokens || output.length >= output.max_length;
  return full ? FinishReason::kLength : FinishReason::kNone;
}

}  // namespace caravan
