#include "tokenizer_service/sentencepiece_model.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

absl::Status Corrupt() { return absl::InvalidArgumentError("it is corrupt or incomplete"); }

// One field of a message: a number, the bits of a float, or bytes.
struct Field {
  int number = 0;
  uint64_t value = 0;
  std::string_view bytes;
};

bool ReadField(std::string_view message, CodedInputStream& input, Field& field) {
  uint32_t tag = input.ReadTag();
  field = Field();
  field.number = WireFormatLite::GetTagFieldNumber(tag);
  switch (WireFormatLite::GetTagWireType(tag)) {
    case WireFormatLite::WIRETYPE_VARINT:
      return tag != 0 && input.ReadVarint64(&field.value);
    case WireFormatLite::WIRETYPE_FIXED32: {
      uint32_t bits = 0;
      bool ok = input.ReadLittleEndian32(&bits);
      field.value = bits;
      return ok;
    }
    case WireFormatLite::WIRETYPE_LENGTH_DELIMITED: {
      uint32_t size = 0;
      if (!input.ReadVarint32(&size)) return false;
      auto begin = static_cast<size_t>(input.CurrentPosition());
      if (size > message.size() - begin) return false;
      field.bytes = message.substr(begin, size);
      return input.Skip(static_cast<int>(size));
    }
    default:
      return WireFormatLite::SkipField(&input, tag);
  }
}

absl::Status ForEachField(std::string_view message,
                          const std::function<absl::Status(const Field&)>& visit) {
  CodedInputStream input(reinterpret_cast<const uint8_t*>(message.data()),
                         static_cast<int>(message.size()));
  while (static_cast<size_t>(input.CurrentPosition()) < message.size()) {
    Field field;
    if (!ReadField(message, input, field)) return Corrupt();
    RETURN_IF_ERROR(visit(field));
  }
  return absl::OkStatus();
}

bool BeginsWord(std::string_view text, size_t at) {
  return text.substr(at).starts_with(kSpaceSymbol) && !text.substr(0, at).ends_with(kSpaceSymbol);
}

std::string Normalize(std::string_view text, bool dummy_prefix) {
  std::string normalized;
  normalized.reserve(text.size() + text.size() / 2 + kSpaceSymbol.size());
  if (dummy_prefix) normalized += kSpaceSymbol;
  while (!text.empty()) {
    size_t space = std::min(text.find(' '), text.size());
    normalized += text.substr(0, space);
    if (space < text.size()) normalized += kSpaceSymbol;
    text.remove_prefix(std::min(space + 1, text.size()));
  }
  return normalized;
}

}  // namespace

absl::Status SentencePieceModel::ParsePiece(std::string_view message) {
  Piece piece;
  RETURN_IF_ERROR(ForEachField(message, [&](const Field& field) {
    if (field.number == 1) piece.text = std::string(field.bytes);
    if (field.number == 2) {
      auto bits = static_cast<uint32_t>(field.value);
      std::memcpy(&piece.score, &bits, sizeof(bits));
    }
    if (field.number == 3) {
      if (field.value < 1 || field.value > 6) return Corrupt();
      piece.type = static_cast<PieceType>(field.value);
    }
    return absl::OkStatus();
  }));
  pieces_.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::StatusOr<SentencePieceModel> SentencePieceModel::Parse(std::string_view serialized) {
  constexpr uint64_t kBpe = 2;
  SentencePieceModel model;
  auto trainer = [&](const Field& field) {
    if (field.number == 3) model.is_bpe_ = field.value == kBpe;
    if (field.number == 24) model.whitespace_as_suffix_ = field.value != 0;
    if (field.number == 35) model.byte_fallback_ = field.value != 0;
    return absl::OkStatus();
  };
  auto normalizer = [&](const Field& field) {
    if (field.number == 2) model.has_normalization_rules_ = !field.bytes.empty();
    if (field.number == 3) model.add_dummy_prefix_ = field.value != 0;
    if (field.number == 4) model.remove_extra_whitespaces_ = field.value != 0;
    if (field.number == 5) model.escape_whitespaces_ = field.value != 0;
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(ForEachField(serialized, [&](const Field& field) {
    if (field.number == 1) return model.ParsePiece(field.bytes);
    if (field.number == 2) return ForEachField(field.bytes, trainer);
    if (field.number == 3) return ForEachField(field.bytes, normalizer);
    return absl::OkStatus();
  }));
  if (model.pieces_.empty()) return absl::InvalidArgumentError("it has no pieces");
  const std::pair<const char*, bool> unsupported[] = {
      {"it is not a BPE model", !model.is_bpe_},
      {"it normalizes text by rules", model.has_normalization_rules_},
      {"it removes extra whitespace", model.remove_extra_whitespaces_},
      {"it treats whitespace as a suffix", model.whitespace_as_suffix_},
      {"it does not escape whitespace", !model.escape_whitespaces_}};
  for (const auto& [what, is_so] : unsupported) {
    if (!is_so) continue;
    return absl::UnimplementedError(absl::StrCat(
        what, "; Caravan reads SentencePiece models of LLaMA's kind (BPE, text as is)"));
  }
  RETURN_IF_ERROR(model.Index());
  return model;
}

absl::Status SentencePieceModel::Index() {
  auto bad = [](const auto&... what) { return absl::InvalidArgumentError(absl::StrCat(what...)); };
  cuts_words_ = true;
  for (int32_t id = 0; id < size(); ++id) {
    const Piece& piece = pieces_[id];
    if (piece.text.empty()) return bad("piece ", id, " is empty");
    if (FindInvalidUtf8(piece.text) != std::string::npos) return bad("piece ", id, " is not UTF-8");
    bool found_in_text = piece.type == PieceType::kNormal || piece.type == PieceType::kUnused ||
                         piece.type == PieceType::kUserDefined;
    if (!(found_in_text ? merged_ : reserved_).emplace(piece.text, id).second) {
      return bad("piece ", id, " is the second of its name");
    }
    if (piece.type == PieceType::kUnknown) {
      if (unk_id_ >= 0) return bad("it has two unknown pieces");
      unk_id_ = id;
    }
    if (piece.type == PieceType::kUserDefined) {
      user_defined_.emplace(piece.text, id);
      user_defined_lengths_.push_back(piece.text.size());
    }
    for (size_t i = 1; found_in_text && i < piece.text.size(); ++i) {
      cuts_words_ = cuts_words_ && !BeginsWord(piece.text, i);
    }
  }
  if (unk_id_ < 0) return bad("it has no unknown piece");
  std::sort(user_defined_lengths_.rbegin(), user_defined_lengths_.rend());
  user_defined_lengths_.erase(
      std::unique(user_defined_lengths_.begin(), user_defined_lengths_.end()),
      user_defined_lengths_.end());
  for (int byte = 0; byte_fallback_ && byte < 256; ++byte) {
    static constexpr char kDigits[] = "0123456789ABCDEF";
    std::string name = {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
    auto found = reserved_.find(name);
    if (found == reserved_.end()) return bad("it has no piece ", name);
    byte_ids_[byte] = found->second;
  }
  return absl::OkStatus();
}

int32_t SentencePieceModel::PieceToId(std::string_view piece) const {
  auto found = reserved_.find(ToAbsl(piece));
  if (found != reserved_.end()) return found->second;
  int32_t id = FindMerged(piece);
  return id < 0 ? unk_id_ : id;
}

int32_t SentencePieceModel::FindMerged(std::string_view text) const {
  auto found = merged_.find(ToAbsl(text));
  return found == merged_.end() ? -1 : found->second;
}

// The longest user-defined piece at the start of `text`, else one character.
size_t SentencePieceModel::SymbolLength(std::string_view text, bool& user_defined) const {
  user_defined = true;
  for (size_t length : user_defined_lengths_) {
    if (length <= text.size() && user_defined_.contains(ToAbsl(text.substr(0, length)))) {
      return length;
    }
  }
  user_defined = false;
  return std::min(Utf8Length(text[0]), text.size());
}

// Byte pair encoding of one stretch of text: neighbours that make a piece are merged, the best
// scored (of equals the leftmost) first, until none are left.
class SentencePieceModel::Merger {
 public:
  explicit Merger(const SentencePieceModel& model) : model_(model) {}

  void Run(std::string_view text, EncodedText& encoded) {
    symbols_.clear();
    pairs_.clear();
    halves_.clear();
    while (!text.empty()) {
      Symbol symbol;
      symbol.text = text.substr(0, model_.SymbolLength(text, symbol.user_defined));
      symbol.left = static_cast<int>(symbols_.size()) - 1;
      symbol.right = symbol.left + 2;
      text.remove_prefix(symbol.text.size());
      symbols_.push_back(symbol);
    }
    symbols_.back().right = -1;
    for (size_t i = 1; i < symbols_.size(); ++i) AddPair(static_cast<int>(i) - 1);
    while (!pairs_.empty()) MergeBest();
    for (int i = 0; i >= 0; i = symbols_[i].right) Emit(symbols_[i].text, encoded);
  }

 private:
  struct Symbol {
    std::string_view text;  // empty: merged into the one on its left
    int left = -1;
    int right = -1;
    bool user_defined = false;
  };
  struct Pair {
    float score;
    int left;
    int right;
    size_t size;
    bool operator<(const Pair& other) const {
      return score < other.score || (score == other.score && left > other.left);
    }
  };

  void AddPair(int left) {
    int right = left < 0 ? -1 : symbols_[left].right;
    if (right < 0 || symbols_[left].user_defined || symbols_[right].user_defined) return;
    std::string_view a = symbols_[left].text;
    std::string_view b = symbols_[right].text;
    std::string_view merged(a.data(), a.size() + b.size());
    int32_t id = model_.FindMerged(merged);
    if (id < 0) return;
    const Piece& piece = model_.pieces_[id];
    pairs_.push_back({piece.score, left, right, merged.size()});
    std::push_heap(pairs_.begin(), pairs_.end());
    if (piece.type == PieceType::kUnused) halves_[ToAbsl(merged)] = {a, b};
  }

  void MergeBest() {
    std::pop_heap(pairs_.begin(), pairs_.end());
    Pair pair = pairs_.back();
    pairs_.pop_back();
    Symbol& left = symbols_[pair.left];
    Symbol& right = symbols_[pair.right];
    bool still_there = !left.text.empty() && !right.text.empty() &&
                       left.text.size() + right.text.size() == pair.size;
    if (!still_there) return;
    left.text = {left.text.data(), pair.size};
    left.right = right.right;
    if (right.right >= 0) symbols_[right.right].left = pair.left;
    right.text = {};
    AddPair(left.left);
    AddPair(pair.left);
  }

  // Pieces that may not be used fall apart into what they were merged from.
  void Emit(std::string_view text, EncodedText& encoded) {
    int32_t id = model_.PieceToId(text);
    bool is_unused = model_.pieces_[id].type == PieceType::kUnused;
    auto halves = is_unused ? halves_.find(ToAbsl(text)) : halves_.end();
    if (halves != halves_.end()) {
      auto [left, right] = halves->second;
      Emit(left, encoded);
      Emit(right, encoded);
    } else if (id != model_.unk_id_) {
      encoded.ids.push_back(id);
      after_unknown_ = false;
    } else if (model_.byte_fallback_) {
      for (char byte : text) encoded.ids.push_back(model_.byte_id(byte));
    } else if (after_unknown_) {
      encoded.unknown.back() += text;
    } else {
      encoded.ids.push_back(~static_cast<int32_t>(encoded.unknown.size()));
      encoded.unknown.emplace_back(text);
      after_unknown_ = true;
    }
  }

  const SentencePieceModel& model_;
  std::vector<Symbol> symbols_;
  std::vector<Pair> pairs_;  // a heap
  absl::flat_hash_map<absl::string_view, std::pair<std::string_view, std::string_view>> halves_;
  bool after_unknown_ = false;
};

void SentencePieceModel::Encode(std::string_view text, bool dummy_prefix,
                                EncodedText& encoded) const {
  if (text.empty()) return;
  std::string normalized = Normalize(text, dummy_prefix);
  std::string_view rest = normalized;
  Merger merger(*this);
  while (!rest.empty()) {
    size_t end = cuts_words_ ? rest.find(kSpaceSymbol, 1) : std::string_view::npos;
    while (end != std::string_view::npos && !BeginsWord(rest, end)) {
      end = rest.find(kSpaceSymbol, end + kSpaceSymbol.size());
    }
    end = std::min(end, rest.size());
    merger.Run(rest.substr(0, end), encoded);
    rest.remove_prefix(end);
  }
}

}  // namespace caravan
