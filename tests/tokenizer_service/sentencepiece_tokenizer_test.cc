#include "tokenizer_service/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/tokenizer_service/tokenizer_fixture.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Ids = std::vector<int32_t>;

EncodeOptions Parsing() {
  EncodeOptions options;
  options.parse_special_tokens = true;
  return options;
}

class GoldenTokenizer : public testing::TestWithParam<std::string> {
 protected:
  const nlohmann::json& golden() const { return Golden().at(GetParam()); }
  std::unique_ptr<Tokenizer> tokenizer_ = LoadGolden(GetParam());
};

TEST_P(GoldenTokenizer, GivesTheIdsOfTransformers) {
  ASSERT_GT(golden().at("cases").size(), 50);
  for (const auto& [_, value] : golden().at("cases").items()) {
    auto text = value[0].get<std::string>();
    SCOPED_TRACE(testing::PrintToString(text));
    auto plain = tokenizer_->Encode(text, {});
    ASSERT_TRUE(plain.ok()) << plain.status();
    EXPECT_EQ(*plain, value[1].get<Ids>());
    auto parsed = tokenizer_->Encode(text, Parsing());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, value[2].get<Ids>());
  }
}

TEST_P(GoldenTokenizer, HasTheVocabularyOfTransformers) {
  const Vocabulary& vocabulary = tokenizer_->vocabulary();
  EXPECT_EQ(vocabulary.size(), golden().at("size").get<int>());
  EXPECT_EQ(vocabulary.bos_id, golden().at("bos").get<int>());
  EXPECT_THAT(vocabulary.eos_ids, ElementsAre(golden().at("eos").get<int>()));
  EXPECT_TRUE(vocabulary.tokens[vocabulary.bos_id].special);
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTokenizer,
                         testing::Values("legacy", "new", "default", "no_prefix", "added_legacy",
                                         "added_new", "old_style", "unknown_legacy", "unknown_new"),
                         [](const auto& test) { return test.param; });

TEST(SentencePieceTokenizer, AddsBosAndEosWhereAsked) {
  auto tokenizer = LoadGolden("new");
  EncodeOptions options;
  options.add_bos = options.add_eos = true;
  EXPECT_THAT(*tokenizer->Encode("", options), ElementsAre(1, 2));
  EXPECT_TRUE(tokenizer->vocabulary().adds_bos);
  EXPECT_FALSE(tokenizer->vocabulary().adds_eos);
}

TEST(SentencePieceTokenizer, DecodesWhatItEncoded) {
  for (const char* name : {"legacy", "new", "default"}) {
    auto tokenizer = LoadGolden(name);
    for (const auto& [_, value] : Golden().at(name).at("cases").items()) {
      auto text = value[0].get<std::string>();
      if (text.find("▁") != std::string::npos) continue;  // reads like a space
      EXPECT_EQ(*tokenizer->Decode(*tokenizer->Encode(text, {}), false), text);
    }
  }
}

TEST(SentencePieceTokenizer, ContinuesATextWithoutASpace) {
  for (const char* name : {"legacy", "new"}) {
    auto tokenizer = LoadGolden(name);
    EncodeOptions options;
    options.no_dummy_prefix = true;
    Ids ids = *tokenizer->Encode("the caravan", options);
    EXPECT_EQ(tokenizer->vocabulary().tokens[ids[0]].bytes.front(), 't') << name;
    ids.insert(ids.begin(), tokenizer->Encode("under", {})->front());
    EXPECT_EQ(*tokenizer->Decode(ids, false), "underthe caravan") << name;
  }
}

TEST(SentencePieceTokenizer, NamesTheByteThatIsNotUtf8) {
  auto tokenizer = LoadGolden("new");
  absl::Status status = tokenizer->Encode("caf\xE9 au lait", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "not UTF-8 at byte 3 (0xe9)");
}

TEST(SentencePieceTokenizer, NeverReadsPlainTextAsASpecialToken) {
  for (const auto& [name, golden] : Golden().items()) {
    auto tokenizer = LoadGolden(name);
    const Vocabulary& vocabulary = tokenizer->vocabulary();
    for (const Vocabulary::Token& token : vocabulary.tokens) {
      if (!token.special) continue;
      for (const std::string& text : {token.bytes, " " + token.bytes, "x" + token.bytes + "x"}) {
        const Ids ids = *tokenizer->Encode(text, {});
        for (int32_t id : ids) {
          EXPECT_TRUE(id == vocabulary.unk_id || !vocabulary.tokens[id].special) << name << text;
        }
      }
    }
  }
}

TEST(SentencePieceTokenizer, PutsPartsTogetherAsTheTextWithItsSpecialTokens) {
  for (const char* name : {"legacy", "new", "added_new", "added_legacy", "no_prefix"}) {
    auto tokenizer = LoadGolden(name);
    const std::vector<TextPart> parts = {{"", 1},          {"[INST] ", -1}, {"the river", -1},
                                         {" [/INST]", -1}, {"", 2},         {"", 1},
                                         {" under", -1}};
    EXPECT_EQ(*tokenizer->EncodeParts(parts),
              *tokenizer->Encode("<s>[INST] the river [/INST]</s><s> under", Parsing()))
        << name;
    EXPECT_EQ(*tokenizer->EncodeParts({{"the river", -1}}), *tokenizer->Encode("the river", {}));
    EXPECT_TRUE(tokenizer->EncodeParts({})->empty());
  }
}

TEST(SentencePieceTokenizer, KeepsSpecialTokensInPartsPlain) {
  auto tokenizer = LoadGolden("new");
  const Ids ids = *tokenizer->EncodeParts({{"", 1}, {"a</s><s>", -1}, {"", 2}});
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 1);
}

TEST(SentencePieceTokenizer, DecodeTakesTheDummyPrefixAndNothingElse) {
  auto tokenizer = LoadGolden("new");
  const Ids ids = *tokenizer->Encode("  the river", {});
  EXPECT_EQ(*tokenizer->Decode(ids, false), "  the river");
  Ids with_bos = ids;
  with_bos.insert(with_bos.begin(), 1);
  with_bos.push_back(2);
  EXPECT_EQ(*tokenizer->Decode(with_bos, false), "  the river");
  EXPECT_EQ(*tokenizer->Decode(with_bos, true), "<s>   the river</s>");
}

TEST(SentencePieceTokenizer, DecodeNamesTheIdThatIsNotInTheVocabulary) {
  auto tokenizer = LoadGolden("new");
  for (int32_t id : {-1, 1600, 2147483647}) {
    absl::Status status = tokenizer->Decode({5, id}, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(status.message()),
              absl::StrCat("token_ids[1] is ", id, ", the vocabulary has ids from 0 to 1599"));
  }
}

TEST(SentencePieceTokenizer, FingerprintsTellTokenizersApart) {
  std::set<std::string> fingerprints;
  for (const auto& [name, golden] : Golden().items()) {
    auto tokenizer = LoadGolden(name);
    EXPECT_EQ(tokenizer->vocabulary().fingerprint.size(), 16);
    EXPECT_EQ(tokenizer->vocabulary().fingerprint, LoadGolden(name)->vocabulary().fingerprint);
    fingerprints.insert(tokenizer->vocabulary().fingerprint);
  }
  // "default" reads no file and does what "legacy" spells out.
  EXPECT_GE(fingerprints.size(), Golden().size() - 1);
}

TEST(LoadTokenizer, SaysWhatIsMissingOrBroken) {
  auto error = [](const std::string& folder) { return LoadTokenizer(folder).status(); };
  EXPECT_EQ(error("/nowhere").code(), absl::StatusCode::kNotFound);
  std::string empty = WriteToFolder("empty", "README", "");
  EXPECT_THAT(std::string(error(empty).message()), HasSubstr("has no tokenizer.model"));
  std::string llama3 = WriteToFolder("llama3", "tokenizer.json", "{}");
  EXPECT_EQ(error(llama3).code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(error(llama3).message()), HasSubstr("LLaMA 3"));
  std::string corrupt =
      WriteToFolder("corrupt", "tokenizer.model", ModelBytes("llama").substr(0, 20000));
  EXPECT_THAT(std::string(error(corrupt).message()),
              HasSubstr("corrupt/tokenizer.model is no SentencePiece model that can be used: it is "
                        "corrupt or incomplete"));
  std::string pointer =
      WriteToFolder("lfs", "tokenizer.model", "version https://git-lfs.github.com");
  EXPECT_THAT(std::string(error(pointer).message()), HasSubstr("git lfs pull"));
}

}  // namespace
}  // namespace caravan
