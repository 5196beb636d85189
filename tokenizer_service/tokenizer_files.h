// The files of a Hugging Face folder that say how its tokenizer behaves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tokenizer_service/added_tokens.h"

namespace caravan {

// A token with a role, "bos_token" or one of "additional_special_tokens".
struct SpecialToken {
  AddedToken token;
  // The files give nothing but its name: an added token of that name keeps its own properties.
  bool only_a_name = false;
};

struct TokenizerFiles {
  bool legacy = true;
  bool add_prefix_space = true;
  bool add_bos_token = true;
  bool add_eos_token = false;
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> unk_token;
  std::vector<SpecialToken> special_tokens;  // of every role, in transformers' order
  std::vector<std::pair<int32_t, AddedToken>> added_tokens;  // as the files have them
  std::vector<int32_t> eos_token_ids;                        // of generation_config.json
  std::string chat_template;                                 // Jinja; empty: the folder has none
};

// The bytes of a regular file; errors name it.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// From tokenizer_config.json, special_tokens_map.json, added_tokens.json, tokenizer.json,
// generation_config.json and chat_template.jinja, as far as the folder has them, by the rules of
// transformers' LlamaTokenizer.from_pretrained. INVALID_ARGUMENT names file and key.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& folder);

}  // namespace caravan
