// SentencePiece BPE models: reads a tokenizer.model and cuts text into its pieces.
//
// This is our own and not libsentencepiece: the distributions' library carries a protobuf 3.14
// whose symbols clash with the protobuf 3.21 of gRPC, so that the two can't live in one process.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace caravan {

inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // ▁, a space in a piece

enum class PieceType : uint8_t {  // the numbers are the file's
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // never found in text
  kUserDefined = 4,  // found in text before all else
  kUnused = 5,
  kByte = 6,  // "<0x0A>", for characters that are no piece
};

struct Piece {
  std::string text;
  float score = 0;  // of two merges, the one with the higher score comes first
  PieceType type = PieceType::kNormal;
};

// Ids, as SentencePieceProcessor::Encode gives them. Text that is no piece, in models without byte
// pieces, is one negative number for each unbroken stretch: ~index into `unknown`.
struct EncodedText {
  std::vector<int32_t> ids;
  std::vector<std::string> unknown;
};

// Immutable and safe for any number of threads.
class SentencePieceModel {
 public:
  // From the bytes of a tokenizer.model. INVALID_ARGUMENT where they are none, UNIMPLEMENTED for
  // kinds of models other than LLaMA's (unigram, or text that is normalized first).
  static absl::StatusOr<SentencePieceModel> Parse(std::string_view serialized);

  SentencePieceModel(SentencePieceModel&&) = default;
  SentencePieceModel& operator=(SentencePieceModel&&) = default;

  int32_t size() const { return static_cast<int32_t>(pieces_.size()); }
  const Piece& piece(int32_t id) const { return pieces_[id]; }
  int32_t unk_id() const { return unk_id_; }
  int32_t byte_id(char byte) const { return byte_ids_[static_cast<unsigned char>(byte)]; }
  bool cuts_words() const { return cuts_words_; }  // words with the space before them stay apart
  bool byte_fallback() const { return byte_fallback_; }
  bool add_dummy_prefix() const { return add_dummy_prefix_; }
  // unk_id() for what is no piece.
  int32_t PieceToId(std::string_view piece) const;

  // Appends the pieces of well-formed UTF-8 to `encoded`. With `dummy_prefix` a space is put before
  // a text that is not empty.
  void Encode(std::string_view text, bool dummy_prefix, EncodedText& encoded) const;

 private:
  class Merger;

  SentencePieceModel() = default;
  absl::Status ParsePiece(std::string_view message);
  absl::Status Index();
  int32_t FindMerged(std::string_view text) const;  // a piece that merging can give; -1 for none
  size_t SymbolLength(std::string_view text, bool& user_defined) const;

  std::vector<Piece> pieces_;
  absl::flat_hash_map<absl::string_view, int32_t> merged_;    // normal, user-defined, unused
  absl::flat_hash_map<absl::string_view, int32_t> reserved_;  // unknown, control, byte
  absl::flat_hash_map<absl::string_view, int32_t> user_defined_;
  std::vector<size_t> user_defined_lengths_;  // descending
  std::array<int32_t, 256> byte_ids_ = {};
  int32_t unk_id_ = -1;
  // Of the file: what Parse accepts, but for byte_fallback_ and add_dummy_prefix_.
  bool is_bpe_ = false;
  bool byte_fallback_ = false;
  bool whitespace_as_suffix_ = false;
  bool has_normalization_rules_ = false;
  bool add_dummy_prefix_ = true;
  bool remove_extra_whitespaces_ = true;
  bool escape_whitespaces_ = true;
  bool cuts_words_ = false;  // no piece reaches over the border before a word
};

}  // namespace caravan
