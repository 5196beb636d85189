// What one request's life gives to the front door that brought it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gateway/metrics.h"

namespace caravan {

struct OutputToken {
  int32_t id = 0;
  float logprob = 0;  // 0 unless asked for
  std::vector<std::pair<int32_t, float>> top_logprobs;
};

// New output of one sample. Joined, the texts are valid UTF-8 and the exact decoding of the tokens
// (up to a stop string).
struct OutputChunk {
  int sample_index = 0;
  int32_t position = 0;   // of the token, counted from the first generated one
  bool has_token = true;  // false: text that was held back, after the last token
  OutputToken token;
  std::string text;  // may belong to earlier tokens too, may be empty
};

struct SampleEnd {
  int sample_index = 0;
  EndReason reason = EndReason::kLength;
  absl::Status status;  // with kError and kCancelled
  std::string stop_string;
  int32_t stop_token_id = 0;
  int32_t generated_tokens = 0;
  int32_t cached_prompt_tokens = 0;
  float cumulative_logprob = 0;  // of a beam: the sum over its tokens
};

// A beam as it stands before its search has ended: it may be another one at the next look.
struct BeamState {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;  // one a token, where asked for
  float cumulative_logprob = 0;
  std::string text;  // whole characters; up to a stop string, as are the tokens
};

// All beams after one step of the search, the best first.
struct BeamLook {
  int32_t steps = 0;      // tokens of the longest
  std::string_view echo;  // the prompt's text where asked for: stands before that of each beam
  std::vector<BeamState> beams;
};

struct StartedInfo {
  std::string request_id;
  std::string model;
  uint64_t seed = 0;
  int32_t prompt_tokens = 0;
};

// A request's place in flight, given up when the last copy is dropped (on the loop). A sink holds
// it for as long as output of the request waits for the client: so admission, which bounds the
// number of places, bounds what all slow clients together make the gateway keep.
using InflightPlace = std::shared_ptr<const void>;

// Called on the loop. Calls come in this order: OnStarted, then chunks and one OnSampleEnd for each
// sample, then OnEnd; a request that never started has OnEnd alone. Must not block and must not
// cancel the request from inside.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void OnStarted(const StartedInfo& started) = 0;
  // Takes the chunk whatever it returns. Not OK (the client reads too slowly): the request ends
  // with that status.
  [[nodiscard]] virtual absl::Status OnChunk(OutputChunk chunk) = 0;
  virtual void OnSampleEnd(SampleEnd end) = 0;
  // Where asked for. A search that begins again, elsewhere, shows its beams again.
  virtual void OnBeams(BeamLook&& look) {}
  // OK: every sample came to its own end. CANCELLED: by the client. Last.
  virtual void OnEnd(const absl::Status& status, InflightPlace place) = 0;
};

}  // namespace caravan
