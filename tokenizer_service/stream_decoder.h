// Text of a sequence whose tokens come one by one.
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "common/utf8.h"
#include "tokenizer_service/tokenizer.h"

namespace caravan {

// The texts of Skip, Append and Flush, put one after the other, are what Decode gives for all the
// ids, as well-formed UTF-8: however the ids are cut. O(1) for a token, a few bytes of state.
class StreamDecoder {
 public:
  // `vocabulary` outlives the decoder. Ids given to it have passed its CheckIds.
  StreamDecoder(const Vocabulary* vocabulary, bool keep_special_tokens)
      : vocabulary_(vocabulary),
        keep_special_tokens_(keep_special_tokens),
        at_start_(vocabulary->has_dummy_prefix) {}

  // Text that is known already: a prompt, or ids decoded earlier. A character that it leaves
  // incomplete is completed by what follows.
  void Skip(absl::Span<const int32_t> ids);

  // Appends all characters that are complete to `text`.
  void Append(absl::Span<const int32_t> ids, std::string& text);

  // The sequence ends here: bytes that never became a character are one U+FFFD.
  void Flush(std::string& text) { assembler_.Flush(text); }

 private:
  const Vocabulary* vocabulary_;
  bool keep_special_tokens_;
  bool at_start_;  // nothing was shown yet: the dummy prefix is still to be taken away
  Utf8Assembler assembler_;
};

}  // namespace caravan
