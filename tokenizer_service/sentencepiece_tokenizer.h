// SentencePiece models of the LLaMA family, with the ids of transformers' (slow) LlamaTokenizer.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tokenizer_service/sentencepiece_folder.h"
#include "tokenizer_service/tokenizer.h"

namespace caravan {

// Encode equals LlamaTokenizer for both values of `legacy`; parse_special_tokens = false is its
// split_special_tokens=True, no_dummy_prefix its add_prefix_space=False. One difference is meant:
// text that is not to be parsed never gives a special token, not even where the model itself has
// the special token's name as an ordinary or user-defined piece.
//
// Decode equals LlamaTokenizer.decode for text that was encoded, and for any ids but in this:
// incomplete UTF-8 stays as it is (there: U+FFFD); nothing is taken away or put in around special
// and added tokens (there: a space after one goes; legacy puts one before one that is kept); of
// spaces at the text's start one goes (there: legacy takes two, and else a run that is no piece
// without its first shows as "▁"); a token that is flagged special is left out even
// where it has no role (bos_token, …, additional_special_tokens).
class SentencePieceTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& folder);

  const std::string& chat_template() const override { return folder_.files.chat_template; }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  absl::StatusOr<std::vector<int32_t>> EncodeParts(absl::Span<const TextPart> parts) const override;

 private:
  explicit SentencePieceTokenizer(SentencePieceFolder folder);

  static absl::Status CheckUtf8(std::string_view text);
  std::string Normalize(std::string_view text, bool dummy_prefix) const;
  // These append to `ids`; kUnknownPiece (-1) stands for unknown text until the end.
  void EncodeSegments(std::vector<Segment> segments, bool no_dummy_prefix,
                      std::vector<int32_t>& ids) const;
  void EncodeSegment(std::string_view text, bool no_dummy_prefix, std::vector<int32_t>& ids) const;
  void SpellOutSpecials(size_t begin, std::vector<int32_t>& ids) const;
  void SpellOut(std::string_view name, std::vector<int32_t>& ids) const;

  SentencePieceFolder folder_;         // its vocabulary has moved to Tokenizer
  std::vector<bool> is_special_name_;  // by id: transformers' all_special_tokens
  std::vector<int32_t> final_ids_;     // by piece: an added token of the same name may have another
  std::vector<bool> must_not_be_text_;  // by id; empty where no text can give a special token
  int32_t space_id_ = -2;               // of "▁"
};

}  // namespace caravan
