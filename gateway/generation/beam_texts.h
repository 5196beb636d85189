// The texts of beams that are shown as they stand, of which a look decodes only what is new.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/utf8.h"
#include "gateway/generation/decode_sequence.h"
#include "gateway/generation/output_sink.h"
#include "gateway/generation/request.h"
#include "gateway/generation/stop_strings.h"

namespace caravan {

// The text of a beam is what a tokenizer's Decode of prompt and beam gives after the prompt, as
// whole characters, up to a stop string. A beam goes on from whichever beam of the last look it
// continues: all of the prompt and of that beam is not looked at again, so a look takes a step of
// work for each new token beside copying the texts. Not thread-safe.
class BeamTexts {
 public:
  // Nothing but `vocabulary` is kept by reference.
  BeamTexts(const RequestSpec& spec, std::shared_ptr<const Vocabulary> vocabulary,
            const std::vector<int32_t>& prompt_token_ids);

  // Gives each of `beams` its text. One that has completed a stop string keeps the tokens up to
  // there, as its sample will at the end. FAILED_PRECONDITION for an id that the tokenizer lacks.
  absl::Status Decode(std::vector<BeamState>* beams);

 private:
  struct Beam {
    explicit Beam(std::vector<std::string> stop_strings) : matcher(std::move(stop_strings)) {}

    std::vector<int32_t> token_ids;  // that have been decoded
    bool at_start = true;            // nothing was shown yet: neither prompt nor tokens
    Utf8Assembler assembler;
    StopStringMatcher matcher;
    std::string text;  // what the matcher holds comes behind it
    bool stopped = false;
    size_t num_shown = 0;  // tokens; up to the stop string
  };

  const Beam& ParentOf(const std::vector<int32_t>& token_ids, size_t likely) const;
  absl::Status Append(int32_t id, Beam* beam) const;
  // What the token adds to a text of which nothing was shown (`at_start`), or something.
  std::string_view BytesOf(int32_t id, bool* at_start) const;

  const bool keep_special_tokens_;
  const bool include_stop_;
  const size_t min_tokens_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  Beam root_;                // the prompt
  std::vector<Beam> beams_;  // of the last look
};

}  // namespace caravan
