#include "tokenizer_service/sentencepiece_folder.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "common/status.h"

namespace caravan {
namespace {

// "<0x0A>" to "\n", "▁the" to " the"
std::string BytesOfPiece(const Piece& piece) {
  if (piece.type == PieceType::kByte) {
    return std::string(1, static_cast<char>(std::strtol(piece.text.c_str() + 1, nullptr, 16)));
  }
  if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown) return piece.text;
  return absl::StrReplaceAll(piece.text, {{std::string(kSpaceSymbol), " "}});
}

// 128-bit FNV-1a.
class Fingerprint {
 public:
  void Add(std::string_view bytes) {
    AddBytes(absl::StrCat(bytes.size(), ":"));
    AddBytes(bytes);
  }
  std::string Get() const {
    std::string bytes;
    for (int shift = 120; shift >= 0; shift -= 8)
      bytes.push_back(static_cast<char>(hash_ >> shift));
    return bytes;
  }

 private:
  using Hash = unsigned __int128;
  void AddBytes(std::string_view bytes) {
    constexpr Hash kPrime = (static_cast<Hash>(1) << 88) + 0x13B;
    for (char byte : bytes) hash_ = (hash_ ^ static_cast<unsigned char>(byte)) * kPrime;
  }

  Hash hash_ = (static_cast<Hash>(0x6C62272E07BB0142) << 64) + 0x62B821756295C58D;
};

std::string FingerprintOf(const std::string& model, const TokenizerFiles& files,
                          const Vocabulary& vocabulary) {
  Fingerprint fingerprint;
  fingerprint.Add(model);
  fingerprint.Add(absl::StrCat(files.legacy, files.add_prefix_space, files.add_bos_token,
                               files.add_eos_token, ",", vocabulary.bos_id, ",",
                               vocabulary.unk_id));
  for (int32_t id : vocabulary.eos_ids) fingerprint.Add(absl::StrCat(id));
  for (const auto& [id, token] : files.added_tokens) {
    fingerprint.Add(absl::StrCat(id, ",", token.single_word, token.lstrip, token.rstrip));
  }
  for (const Vocabulary::Token& token : vocabulary.tokens) {
    fingerprint.Add(token.bytes);
    fingerprint.Add(token.special ? "special" : "");
  }
  return fingerprint.Get();
}

absl::StatusOr<SentencePieceModel> ParseModel(const std::string& path, const std::string& bytes) {
  if (absl::StartsWith(bytes, "version https://git-lfs")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is a Git LFS pointer; fetch the file itself with `git lfs pull`"));
  }
  auto model = SentencePieceModel::Parse(bytes);
  if (model.ok()) return model;
  return absl::Status(model.status().code(),
                      absl::StrCat(path, " is no SentencePiece model that can be used: ",
                                   model.status().message()));
}

// What PreTrainedTokenizer.__init__ makes of the files: each special token is an added token too,
// with the id that the vocabulary has for its name, or else the next free one.
std::vector<std::pair<int32_t, AddedToken>> AllAddedTokens(const TokenizerFiles& files,
                                                           const SentencePieceModel& model) {
  std::vector<std::pair<int32_t, AddedToken>> all = files.added_tokens;
  AddedTokens from_files(all);
  std::unordered_map<std::string, int32_t> ids;
  for (int32_t id = 0; id < model.size(); ++id) {
    auto added = from_files.by_id().find(id);
    ids[added == from_files.by_id().end() ? model.piece(id).text : added->second.content] = id;
  }
  for (const auto& [id, token] : from_files.by_id()) ids[token.content] = id;
  for (const SpecialToken& special : files.special_tokens) {
    if (special.only_a_name && from_files.Find(special.token.content) >= 0) continue;
    auto next_id = static_cast<int32_t>(ids.size());
    int32_t id = ids.try_emplace(special.token.content, next_id).first->second;
    all.emplace_back(id, special.token);
  }
  return all;
}

Vocabulary MakeVocabulary(const TokenizerFiles& files, const AddedTokens& added,
                          const SentencePieceModel& model) {
  Vocabulary vocabulary;
  vocabulary.kind = "sentencepiece";
  int32_t size = model.size();
  for (const auto& [id, token] : added.by_id()) size = std::max(size, id + 1);
  vocabulary.tokens.resize(size);
  for (int32_t id = 0; id < model.size(); ++id) {
    const Piece& piece = model.piece(id);
    bool special = piece.type == PieceType::kControl || piece.type == PieceType::kUnknown;
    bool begins_word = !special && absl::StartsWith(piece.text, std::string(kSpaceSymbol));
    vocabulary.tokens[id] = {BytesOfPiece(piece), special, begins_word};
  }
  for (const auto& [id, token] : added.by_id()) {
    vocabulary.tokens[id] = {token.content, token.special, false};
  }
  auto id_of = [&](const std::optional<std::string>& name) {
    if (!name) return -1;
    int32_t id = added.Find(*name);
    return id >= 0 ? id : model.PieceToId(*name);
  };
  vocabulary.bos_id = id_of(files.bos_token);
  vocabulary.unk_id = id_of(files.unk_token);
  vocabulary.eos_ids = files.eos_token_ids;
  int32_t eos_id = id_of(files.eos_token);
  auto same = std::find(vocabulary.eos_ids.begin(), vocabulary.eos_ids.end(), eos_id);
  if (same != vocabulary.eos_ids.end()) vocabulary.eos_ids.erase(same);
  if (eos_id >= 0) vocabulary.eos_ids.insert(vocabulary.eos_ids.begin(), eos_id);
  vocabulary.adds_bos = files.add_bos_token && vocabulary.bos_id >= 0;
  vocabulary.adds_eos = files.add_eos_token && eos_id >= 0;
  vocabulary.has_dummy_prefix = files.legacy ? model.add_dummy_prefix() : files.add_prefix_space;
  return vocabulary;
}

}  // namespace

absl::StatusOr<SentencePieceFolder> LoadSentencePieceFolder(const std::string& folder) {
  std::string path = folder + "/tokenizer.model";
  ASSIGN_OR_RETURN(std::string bytes, ReadFile(path));
  ASSIGN_OR_RETURN(SentencePieceModel model, ParseModel(path, bytes));
  ASSIGN_OR_RETURN(TokenizerFiles files, ReadTokenizerFiles(folder));
  AddedTokens added(AllAddedTokens(files, model));
  Vocabulary vocabulary = MakeVocabulary(files, added, model);
  for (int32_t id : vocabulary.eos_ids) {
    if (id >= 0 && id < vocabulary.size()) continue;
    return absl::InvalidArgumentError(absl::StrCat(folder, "/generation_config.json: eos_token_id ",
                                                   id, " is not in the vocabulary of ",
                                                   vocabulary.size(), " tokens"));
  }
  vocabulary.fingerprint = FingerprintOf(bytes, files, vocabulary);
  return SentencePieceFolder{std::move(files), std::move(model), std::move(added),
                             std::move(vocabulary)};
}

}  // namespace caravan
