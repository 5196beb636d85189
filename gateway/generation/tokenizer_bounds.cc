#include "gateway/generation/tokenizer_bounds.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/utf8.h"

namespace caravan {
namespace {

constexpr size_t kFrameBytes = 1024;  // of a message, beside a text in it
constexpr size_t kInputBytes = 32;    // of an input, beside its text or ids
// An id of a vocabulary below 2^21 takes three bytes, and a text has an id a byte at most: so much
// text has an answer of a third of a channel's bound.
constexpr size_t kMaxEncodeBytes = 16 << 20;

size_t CostOf(const v1::EncodeInput& input) { return input.text().size() + kInputBytes; }
size_t CostOf(const v1::DecodeInput& input) { return input.ByteSizeLong() + kInputBytes; }
size_t TokensOf(const v1::EncodeInput& /*input*/) { return 0; }
size_t TokensOf(const v1::DecodeInput& input) {
  return static_cast<size_t>(input.token_ids_size());
}

template <typename Request>
std::vector<Request> Split(Request request, size_t max_bytes, const TokenizerBounds& bounds) {
  size_t bytes = 0;
  size_t tokens = 0;
  for (const auto& input : request.inputs()) {
    bytes += CostOf(input);
    tokens += TokensOf(input);
  }
  std::vector<Request> parts;
  if (static_cast<size_t>(request.inputs_size()) <= bounds.max_inputs && bytes <= max_bytes &&
      tokens <= bounds.max_decode_tokens) {
    parts.push_back(std::move(request));
    return parts;
  }
  bytes = tokens = 0;
  for (auto& input : *request.mutable_inputs()) {
    bytes += CostOf(input);
    tokens += TokensOf(input);
    const bool full = parts.empty() ||
                      static_cast<size_t>(parts.back().inputs_size()) >= bounds.max_inputs ||
                      bytes > max_bytes || tokens > bounds.max_decode_tokens;
    if (full) {
      parts.emplace_back();
      bytes = CostOf(input);
      tokens = TokensOf(input);
    }
    *parts.back().add_inputs() = std::move(input);
  }
  return parts;
}

}  // namespace

TokenizerBounds BoundsOf(const v1::GetVocabularyResponse& response) {
  TokenizerBounds bounds;
  const auto take = [](uint32_t told, size_t* bound) {
    if (told > 0) *bound = told;
  };
  take(response.max_text_bytes(), &bounds.max_text_bytes);
  take(response.max_batch_inputs(), &bounds.max_inputs);
  take(response.max_decode_tokens(), &bounds.max_decode_tokens);
  take(response.max_message_bytes(), &bounds.max_message_bytes);
  // A text must arrive, too.
  const size_t largest =
      bounds.max_message_bytes - std::min(bounds.max_message_bytes - 1, kFrameBytes);
  bounds.max_text_bytes = std::min(bounds.max_text_bytes, largest);
  return bounds;
}

TokenizerBounds TighterOf(const TokenizerBounds& a, const TokenizerBounds& b) {
  return {std::min(a.max_text_bytes, b.max_text_bytes), std::min(a.max_inputs, b.max_inputs),
          std::min(a.max_decode_tokens, b.max_decode_tokens),
          std::min(a.max_message_bytes, b.max_message_bytes)};
}

absl::Status CheckText(std::string_view field, std::string_view text,
                       const TokenizerBounds& bounds) {
  const std::string name(field);
  if (text.size() > bounds.max_text_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has ", text.size(), " bytes of text; at most ", bounds.max_text_bytes,
                     " are allowed (--max_text_bytes of the tokenizer)"));
  }
  const size_t offset = FindInvalidUtf8(text);
  if (offset == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is not UTF-8: byte ", offset, " does not begin a valid character"));
}

std::vector<v1::EncodeRequest> SplitEncode(v1::EncodeRequest request,
                                           const TokenizerBounds& bounds) {
  const size_t max_bytes = std::min(bounds.max_message_bytes, kMaxEncodeBytes);
  return Split(std::move(request), max_bytes, bounds);
}

std::vector<v1::DecodeRequest> SplitDecode(v1::DecodeRequest request,
                                           const TokenizerBounds& bounds) {
  return Split(std::move(request), bounds.max_message_bytes, bounds);
}

}  // namespace caravan
