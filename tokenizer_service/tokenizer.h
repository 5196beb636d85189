// Text to token ids and back, whatever the vocabulary's kind.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace caravan {

// What there is to know about a tokenizer's ids.
struct Vocabulary {
  struct Token {
    std::string bytes;     // what it decodes to inside a text; a special token: its name, "</s>"
    bool special = false;  // no text: left out of decoded text unless asked for
    bool begins_word = false;  // `bytes` begin with a space that may be the dummy prefix
  };

  std::vector<Token> tokens;  // by id; an id that the vocabulary leaves out has no bytes
  int32_t bos_id = -1;        // -1: none
  std::vector<int32_t> eos_ids;
  int32_t unk_id = -1;
  // Encoding puts a space (the dummy prefix) before a text; decoding takes it away from its start.
  bool has_dummy_prefix = false;
  bool adds_bos = false;  // what the model's own configuration adds to a prompt
  bool adds_eos = false;
  std::string kind;         // "sentencepiece"
  std::string fingerprint;  // 16 bytes, equal for tokenizers that do the same

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  // INVALID_ARGUMENT where an id is not in [0, size).
  absl::Status CheckIds(absl::Span<const int32_t> ids) const;
  // The id of the special token of that name; -1 where there is none.
  int32_t SpecialId(std::string_view name) const;
};

struct EncodeOptions {
  bool add_bos = false;
  bool add_eos = false;
  bool parse_special_tokens = false;  // else special tokens in the text are plain text
  bool no_dummy_prefix = false;       // no space is put before the text
};

// A piece of a text that is put together: plain text, or a special token.
struct TextPart {
  std::string text;         // never read as special tokens
  int32_t special_id = -1;  // not -1: this token, `text` unused
};

// Immutable and safe for any number of threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  const Vocabulary& vocabulary() const { return vocabulary_; }

  // The Jinja text of the model's chat template; empty: it has none.
  virtual const std::string& chat_template() const = 0;

  // INVALID_ARGUMENT with the byte offset where `text` is not UTF-8. CPU time and memory grow
  // linearly with the text (about 100 ns and 100 bytes a byte).
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;

  // The ids of the text that the parts make up: as Encode of the whole with parse_special_tokens,
  // had the special tokens stood there, and nowhere else, by name. Adds no token of its own.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeParts(
      absl::Span<const TextPart> parts) const = 0;

  // The bytes of the tokens, one after the other; incomplete UTF-8 where the ids are. The dummy
  // prefix is taken off the first token that is shown.
  // INVALID_ARGUMENT for an id outside of the vocabulary.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool keep_special_tokens) const;

 protected:
  explicit Tokenizer(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

 private:
  Vocabulary vocabulary_;
};

// Loads the tokenizer of a Hugging Face model folder. Errors name the file and what is wrong.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& folder);

}  // namespace caravan
