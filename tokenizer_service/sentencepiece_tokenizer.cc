#include "tokenizer_service/sentencepiece_tokenizer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

constexpr int32_t kUnknownPiece = -1;  // in lists of ids while they are made

bool BeginsWithSpace(std::string_view text) {
  return text.starts_with(' ') || text.starts_with(kSpaceSymbol);
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceFolder folder)
    : Tokenizer(std::move(folder.vocabulary)), folder_(std::move(folder)) {
  const SentencePieceModel& model = folder_.model;
  const std::vector<Vocabulary::Token>& tokens = vocabulary().tokens;
  is_special_name_.resize(tokens.size());
  for (const SpecialToken& special : folder_.files.special_tokens) {
    is_special_name_[folder_.added.Find(special.token.content)] = true;
  }
  bool can_be_text = !model.byte_fallback();
  for (int32_t id = 0; id < model.size(); ++id) {
    const Piece& piece = model.piece(id);
    int32_t added_id = folder_.added.Find(piece.text);
    int32_t final_id = added_id < 0 ? id : added_id;
    final_ids_.push_back(final_id);
    if (piece.text == kSpaceSymbol) space_id_ = final_id;
    can_be_text |= tokens[final_id].special && piece.type != PieceType::kControl &&
                   piece.type != PieceType::kUnknown && piece.type != PieceType::kByte;
  }
  for (int32_t id = 0; can_be_text && id < vocabulary().size(); ++id) {
    must_not_be_text_.push_back(tokens[id].special && id != model.unk_id());
  }
}

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Load(const std::string& path) {
  ASSIGN_OR_RETURN(SentencePieceFolder folder, LoadSentencePieceFolder(path));
  return std::unique_ptr<Tokenizer>(new SentencePieceTokenizer(std::move(folder)));
}

absl::Status SentencePieceTokenizer::CheckUtf8(std::string_view text) {
  size_t at = FindInvalidUtf8(text);
  if (at == std::string_view::npos) return absl::OkStatus();
  absl::Hex byte(static_cast<unsigned char>(text[at]), absl::kZeroPad2);
  return absl::InvalidArgumentError(absl::StrCat("not UTF-8 at byte ", at, " (0x", byte, ")"));
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::Encode(
    std::string_view text, const EncodeOptions& options) const {
  RETURN_IF_ERROR(CheckUtf8(text));
  if (options.add_bos && vocabulary().bos_id < 0) {
    return absl::FailedPreconditionError("add_bos: the tokenizer has no bos_token");
  }
  if (options.add_eos && vocabulary().eos_ids.empty()) {
    return absl::FailedPreconditionError("add_eos: the tokenizer has no eos_token");
  }
  std::string whole = Normalize(text, !text.empty() && !options.no_dummy_prefix);
  std::vector<Segment> segments;
  if (options.parse_special_tokens) {
    segments = folder_.added.Split(whole);
  } else {
    segments.push_back({std::move(whole), /*may_be_token=*/false});
  }
  std::vector<int32_t> ids;
  if (options.add_bos) ids.push_back(vocabulary().bos_id);
  EncodeSegments(std::move(segments), options.no_dummy_prefix, ids);
  if (options.add_eos) ids.push_back(vocabulary().eos_ids.front());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::EncodeParts(
    absl::Span<const TextPart> parts) const {
  // Plain segments, between which the special ones stand.
  std::vector<Segment> segments = {{"", /*may_be_token=*/false}};
  for (const TextPart& part : parts) {
    if (part.special_id < 0) {
      RETURN_IF_ERROR(CheckUtf8(part.text));
      segments.back().text += part.text;
    } else {
      segments.push_back({vocabulary().tokens[part.special_id].bytes});
      segments.push_back({"", /*may_be_token=*/false});
    }
  }
  bool is_empty = segments.size() == 1 && segments[0].text.empty();
  for (size_t i = 0; i < segments.size(); i += 2) {
    segments[i].text = Normalize(segments[i].text, i == 0 && !is_empty);
  }
  std::erase_if(segments, [](const Segment& segment) { return segment.text.empty(); });
  std::vector<int32_t> ids;
  EncodeSegments(std::move(segments), /*no_dummy_prefix=*/false, ids);
  return ids;
}

// legacy=False makes the dummy prefix a part of the text, and each "▁" a space; with legacy=True
// SentencePiece puts a prefix before every segment.
std::string SentencePieceTokenizer::Normalize(std::string_view text, bool dummy_prefix) const {
  if (folder_.files.legacy) return std::string(text);
  std::string normalized;
  if (dummy_prefix && folder_.files.add_prefix_space) normalized = kSpaceSymbol;
  while (!text.empty()) {
    size_t at = std::min(text.find(kSpaceSymbol), text.size());
    normalized += text.substr(0, at);
    if (at < text.size()) normalized += ' ';
    text.remove_prefix(std::min(at + kSpaceSymbol.size(), text.size()));
  }
  return normalized;
}

void SentencePieceTokenizer::EncodeSegments(std::vector<Segment> segments, bool no_dummy_prefix,
                                            std::vector<int32_t>& ids) const {
  folder_.added.StripAround(segments);
  std::vector<int32_t> added;
  for (size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].text.empty()) continue;
    int32_t special = folder_.added.Find(segments[i]);
    if (special >= 0) {
      added.push_back(special);
      continue;
    }
    size_t begin = added.size();
    EncodeSegment(segments[i].text, no_dummy_prefix && i == 0, added);
    if (!segments[i].may_be_token && !must_not_be_text_.empty()) SpellOutSpecials(begin, added);
  }
  // A dummy prefix with nothing between it and a special token is dropped.
  bool drops_first = !folder_.files.legacy && added.size() > 1 && added[0] == space_id_ &&
                     added[1] != kUnknownPiece && is_special_name_[added[1]];
  for (size_t i = drops_first ? 1 : 0; i < added.size(); ++i) {
    ids.push_back(added[i] == kUnknownPiece ? folder_.model.unk_id() : added[i]);
  }
}

void SentencePieceTokenizer::EncodeSegment(std::string_view text, bool no_dummy_prefix,
                                           std::vector<int32_t>& ids) const {
  const SentencePieceModel& model = folder_.model;
  bool legacy = folder_.files.legacy;
  EncodedText encoded;
  size_t num_skipped = 0;
  if (!legacy && !model.cuts_words() && BeginsWithSpace(text)) {
    // transformers puts the unknown token's name before the spaces and takes its pieces off again;
    // where pieces reach over words, that changes the pieces after it.
    std::string name = folder_.files.unk_token.value_or("");
    model.Encode(name, /*dummy_prefix=*/false, encoded);
    num_skipped = std::exchange(encoded, {}).ids.size();
    model.Encode(name + std::string(text), /*dummy_prefix=*/false, encoded);
    if (encoded.ids.size() < num_skipped) num_skipped = 0;
  } else {
    model.Encode(text, legacy && !no_dummy_prefix && model.add_dummy_prefix(), encoded);
  }
  for (size_t i = num_skipped; i < encoded.ids.size(); ++i) {
    int32_t id = encoded.ids[i];
    if (id >= 0) {
      ids.push_back(final_ids_[id]);
    } else {
      int32_t added = folder_.added.Find(encoded.unknown[~id]);
      ids.push_back(added >= 0 ? added : kUnknownPiece);
    }
  }
}

// Replaces special tokens that SentencePiece found in plain text by the characters of their names.
void SentencePieceTokenizer::SpellOutSpecials(size_t begin, std::vector<int32_t>& ids) const {
  std::vector<int32_t> spelled(ids.begin(), ids.begin() + begin);
  for (size_t i = begin; i < ids.size(); ++i) {
    if (ids[i] == kUnknownPiece || !must_not_be_text_[ids[i]]) {
      spelled.push_back(ids[i]);
      continue;
    }
    const auto& added = folder_.added.by_id();
    auto found = added.find(ids[i]);
    SpellOut(found == added.end() ? folder_.model.piece(ids[i]).text : found->second.content,
             spelled);
  }
  ids = std::move(spelled);
}

void SentencePieceTokenizer::SpellOut(std::string_view name, std::vector<int32_t>& ids) const {
  const SentencePieceModel& model = folder_.model;
  while (!name.empty()) {
    std::string_view character = name.substr(0, Utf8Length(name[0]));
    name.remove_prefix(character.size());
    int32_t id = model.PieceToId(character);
    if (id != model.unk_id() && !must_not_be_text_[final_ids_[id]]) {
      ids.push_back(final_ids_[id]);
    } else if (!model.byte_fallback()) {
      ids.push_back(kUnknownPiece);
    } else {
      for (char byte : character) ids.push_back(final_ids_[model.byte_id(byte)]);
    }
  }
}

}  // namespace caravan
