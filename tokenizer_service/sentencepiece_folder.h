// What a Hugging Face folder with a SentencePiece model holds, read and put together.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "tokenizer_service/added_tokens.h"
#include "tokenizer_service/sentencepiece_model.h"
#include "tokenizer_service/tokenizer.h"
#include "tokenizer_service/tokenizer_files.h"

namespace caravan {

struct SentencePieceFolder {
  TokenizerFiles files;
  SentencePieceModel model;
  AddedTokens added;  // those of the files and all special tokens
  Vocabulary vocabulary;
};

// INVALID_ARGUMENT or NOT_FOUND with the file's name where one is missing, corrupt or wrong.
absl::StatusOr<SentencePieceFolder> LoadSentencePieceFolder(const std::string& folder);

}  // namespace caravan
