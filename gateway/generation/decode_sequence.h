// One sequence being decoded: what a tokenizer must be told again if the session to it breaks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "gateway/generation/tokenizer_bounds.h"

namespace caravan {

// What the tokenizer service says of its vocabulary.
struct Vocabulary {
  int32_t size = 0;
  bool adds_bos = false;      // prompts begin with the beginning-of-sequence token
  int32_t bos_token_id = -1;  // -1: none
  std::vector<int32_t> eos_token_ids;
  absl::flat_hash_set<int32_t> special_token_ids;
  std::vector<std::string> tokens;  // the bytes of each inside a text
  // Their first byte, a space, is left out where they are the first that is shown.
  absl::flat_hash_set<int32_t> word_token_ids;
  std::string fingerprint;
  TokenizerBounds bounds;
};

// Gets the text of one sequence. On the loop; may close or drop the sequence from inside.
class DecodeListener {
 public:
  virtual ~DecodeListener() = default;
  // Answers appends, in order: the text that is complete after `num_tokens` more tokens.
  virtual void OnDecoded(size_t num_tokens, std::string text) = 0;
  // After Close: what was held back. Last.
  virtual void OnDecodeClosed(std::string text) = 0;
  // The tokenizer refused, or none could be reached in time. Last.
  virtual void OnDecodeError(const absl::Status& status) = 0;
};

struct DecodeSequence {
  uint64_t id = 0;
  std::vector<int32_t> context_token_ids;
  bool keep_special_tokens = false;
  DecodeListener* listener = nullptr;
  std::vector<int32_t> token_ids;  // all that were appended
  size_t num_answered = 0;         // how many of them the listener has been told of
  uint64_t num_bytes = 0;          // of text that the listener has been given
  bool closing = false;
  // After a session broke: what the new one repeats and the listener must not see again.
  size_t tokens_to_skip = 0;
  uint64_t bytes_to_skip = 0;
};

}  // namespace caravan
