// What one call of a tokenizer takes, and calls that keep to it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "caravan/v1/tokenizer.pb.h"

namespace caravan {

// Its own flags' defaults, until it has told others.
struct TokenizerBounds {
  size_t max_text_bytes = 4 << 20;      // of one text
  size_t max_inputs = 4096;             // of one call
  size_t max_decode_tokens = 1 << 20;   // of one call
  size_t max_message_bytes = 16 << 20;  // of one call
};

TokenizerBounds BoundsOf(const v1::GetVocabularyResponse& response);

// The tighter of each: what either of two tokenizers takes.
TokenizerBounds TighterOf(const TokenizerBounds& a, const TokenizerBounds& b);

// INVALID_ARGUMENT where a text, which the caller names `field`, is not UTF-8 or is larger than a
// tokenizer takes.
absl::Status CheckText(std::string_view field, std::string_view text,
                       const TokenizerBounds& bounds);

// The same inputs in calls of which each is within bounds, in order; at least one. One input that
// is out of bounds by itself gets a call of its own, which the tokenizer refuses.
std::vector<v1::EncodeRequest> SplitEncode(v1::EncodeRequest request,
                                           const TokenizerBounds& bounds);
std::vector<v1::DecodeRequest> SplitDecode(v1::DecodeRequest request,
                                           const TokenizerBounds& bounds);

}  // namespace caravan
