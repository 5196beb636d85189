#include "tokenizer_service/tokenizer.h"

#include <filesystem>

#include "common/regular_file.h"
#include "common/status.h"
#include "tokenizer_service/sentencepiece_tokenizer.h"

namespace caravan {

absl::Status Vocabulary::CheckIds(absl::Span<const int32_t> ids) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < size()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "token_ids[", i, "] is ", ids[i], ", the vocabulary has ids from 0 to ", size() - 1));
  }
  return absl::OkStatus();
}

int32_t Vocabulary::SpecialId(std::string_view name) const {
  for (int32_t id = 0; id < size(); ++id) {
    if (tokens[id].special && tokens[id].bytes == name) return id;
  }
  return -1;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool keep_special_tokens) const {
  RETURN_IF_ERROR(vocabulary_.CheckIds(ids));
  std::string text;
  bool at_start = vocabulary_.has_dummy_prefix;
  for (int32_t id : ids) {
    const Vocabulary::Token& token = vocabulary_.tokens[id];
    if (token.special && !keep_special_tokens) continue;
    text.append(token.bytes, at_start && token.begins_word ? 1 : 0);
    at_start = false;
  }
  return text;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat("model folder ", folder, " does not exist"));
  }
  ASSIGN_OR_RETURN(const bool has_sentencepiece, PathExists(folder + "/tokenizer.model"));
  if (has_sentencepiece) return SentencePieceTokenizer::Load(folder);
  ASSIGN_OR_RETURN(const bool has_bpe, PathExists(folder + "/tokenizer.json"));
  if (has_bpe) {
    return absl::UnimplementedError(absl::StrCat(
        folder,
        " has a tokenizer.json but no tokenizer.model: Caravan reads SentencePiece "
        "tokenizers (LLaMA 1 and 2, and models derived from them), not yet the byte-level "
        "BPE of LLaMA 3"));
  }
  return absl::NotFoundError(absl::StrCat(folder,
                                          " has no tokenizer.model; give the folder that "
                                          "has it with --tokenizer"));
}

}  // namespace caravan
