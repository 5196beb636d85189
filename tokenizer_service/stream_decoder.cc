#include "tokenizer_service/stream_decoder.h"

namespace caravan {

void StreamDecoder::Skip(absl::Span<const int32_t> ids) {
  std::string known;
  Append(ids, known);
}

void StreamDecoder::Append(absl::Span<const int32_t> ids, std::string& text) {
  for (int32_t id : ids) {
    const Vocabulary::Token& token = vocabulary_->tokens[id];
    if (token.special && !keep_special_tokens_) continue;
    std::string_view bytes = token.bytes;
    if (at_start_ && token.begins_word) bytes.remove_prefix(1);
    at_start_ = false;
    assembler_.Append(bytes, text);
  }
}

}  // namespace caravan
