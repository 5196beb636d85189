#include "tokenizer_service/sentencepiece_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/tokenizer_service/tokenizer_fixture.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The wire format of a ModelProto with these pieces, BPE, text as is.
std::string Model(const std::vector<Piece>& pieces, std::string_view more = "") {
  std::string model;
  for (const Piece& piece : pieces) {
    std::string message = {'\x0A', static_cast<char>(piece.text.size())};
    message += piece.text;
    message += '\x15';
    message.append(reinterpret_cast<const char*>(&piece.score), sizeof(float));
    message += {'\x18', static_cast<char>(piece.type)};
    model += {'\x0A', static_cast<char>(message.size())};
    model += message;
  }
  model += std::string("\x12\x02\x18\x02", 4);  // trainer_spec { model_type: BPE }
  model +=
      std::string("\x1A\x02\x20\x00", 4);  // normalizer_spec { remove_extra_whitespaces: false }
  model += more;
  return model;
}

const Piece kUnk = {"<unk>", 0, PieceType::kUnknown};

std::vector<std::string> Pieces(const std::string& model, std::string_view text,
                                bool dummy_prefix = false) {
  auto parsed = SentencePieceModel::Parse(model);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  EncodedText encoded;
  parsed->Encode(text, dummy_prefix, encoded);
  std::vector<std::string> pieces;
  for (int32_t id : encoded.ids) {
    pieces.push_back(id < 0 ? "?" + encoded.unknown[~id] : parsed->piece(id).text);
  }
  return pieces;
}

std::string ErrorOf(const std::string& model) {
  return std::string(SentencePieceModel::Parse(model).status().message());
}

TEST(SentencePieceModel, MergesTheBestScoredPairFirstAndOfEqualsTheLeftmost) {
  std::string model = Model({kUnk, {"a"}, {"b"}, {"c"}, {"ab", -2}, {"bc", -1}, {"aa", -3}});
  EXPECT_THAT(Pieces(model, "abc"), ElementsAre("a", "bc"));
  EXPECT_THAT(Pieces(model, "aaa"), ElementsAre("aa", "a"));
  EXPECT_THAT(Pieces(model, "abab"), ElementsAre("ab", "ab"));
}

TEST(SentencePieceModel, PutsASpaceBeforeTextThatIsNotEmpty) {
  std::string model = Model({kUnk, {"▁"}, {"a"}, {"▁a", -1}});
  EXPECT_THAT(Pieces(model, "a a", true), ElementsAre("▁a", "▁a"));
  EXPECT_THAT(Pieces(model, "a a", false), ElementsAre("a", "▁a"));
  EXPECT_THAT(Pieces(model, "", true), ElementsAre());
  EXPECT_THAT(Pieces(model, "  a", true), ElementsAre("▁", "▁", "▁a"));
}

TEST(SentencePieceModel, GathersUnknownTextIntoOneStretch) {
  std::string model = Model({kUnk, {"▁"}, {"a"}});
  EXPECT_THAT(Pieces(model, "xy世a\n x"), ElementsAre("?xy世", "a", "?\n", "▁", "?x"));
}

TEST(SentencePieceModel, FindsUserDefinedPiecesFirstAndNeverMergesThem) {
  std::string model = Model({kUnk,
                             {"a"},
                             {"b"},
                             {"ab", -1},
                             {"b!", 0, PieceType::kUserDefined},
                             {"b!!", 0, PieceType::kUserDefined},
                             {"ab!", -1}});
  EXPECT_THAT(Pieces(model, "ab!"), ElementsAre("a", "b!"));
  EXPECT_THAT(Pieces(model, "ab!!ab"), ElementsAre("a", "b!!", "ab"));
}

TEST(SentencePieceModel, TakesUnusedPiecesApart) {
  std::string model = Model({kUnk,
                             {"a"},
                             {"b"},
                             {"c"},
                             {"ab", -1, PieceType::kUnused},
                             {"abc", -2},
                             {"d"},
                             {"abd", -3, PieceType::kUnused}});
  EXPECT_THAT(Pieces(model, "ab"), ElementsAre("a", "b"));
  EXPECT_THAT(Pieces(model, "abc"), ElementsAre("abc"));
  EXPECT_THAT(Pieces(model, "abd"), ElementsAre("a", "b", "d"));
}

TEST(SentencePieceModel, MergesAcrossWordsWhereAPieceReachesOverThem) {
  EXPECT_THAT(Pieces(Model({kUnk, {"▁"}, {"a"}, {"b"}, {"▁b", -2}, {"a▁", -1}}), "a b"),
              ElementsAre("a▁", "b"));
  EXPECT_THAT(Pieces(Model({kUnk, {"▁"}, {"a"}, {"b"}, {"▁b", -2}, {"a▁b", -1}}), "a b"),
              ElementsAre("a▁b"));
}

TEST(SentencePieceModel, SaysWhatIsWrongWithAModel) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("no pieces"));
  EXPECT_THAT(ErrorOf("this is no model at all"), HasSubstr("corrupt or incomplete"));
  EXPECT_THAT(ErrorOf(Model({{"a"}})), HasSubstr("no unknown piece"));
  EXPECT_THAT(ErrorOf(Model({kUnk, {"a"}, {"a"}})), HasSubstr("piece 2 is the second of its name"));
  EXPECT_THAT(ErrorOf(Model({kUnk, {""}})), HasSubstr("piece 1 is empty"));
  EXPECT_THAT(ErrorOf(Model({kUnk, {"\xFF"}})), HasSubstr("piece 1 is not UTF-8"));
  EXPECT_THAT(ErrorOf(Model({kUnk}, std::string("\x12\x03\x98\x02\x01", 5))),
              HasSubstr("no piece <0x00>"));
  EXPECT_THAT(ErrorOf(Model({kUnk}, std::string("\x12\x02\x18\x01", 4))),
              HasSubstr("not a BPE model"));
  EXPECT_THAT(ErrorOf(Model({kUnk}, std::string("\x1A\x02\x20\x01", 4))),
              HasSubstr("removes extra whitespace"));
  EXPECT_THAT(ErrorOf(Model({kUnk}, std::string("\x1A\x03\x12\x01x", 5))),
              HasSubstr("normalizes text by rules"));
}

TEST(SentencePieceModel, SurvivesEveryTruncationAndAnyDamage) {
  const std::string bytes = ModelBytes("unknown");
  for (size_t size = 0; size < bytes.size(); size += 7) {
    auto model = SentencePieceModel::Parse(std::string_view(bytes).substr(0, size));
    EXPECT_FALSE(model.ok()) << size;
  }
  std::mt19937 random(20240229);
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = bytes;
    for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    auto model = SentencePieceModel::Parse(damaged);
    if (!model.ok()) continue;
    EncodedText encoded;
    model->Encode("the caravan <sep>## walked 世界\n", /*dummy_prefix=*/true, encoded);
    for (int32_t id : encoded.ids) ASSERT_LT(id, model->size());
  }
}

}  // namespace
}  // namespace caravan
