#include "tokenizer_service/tokenizer_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tokenizer_service/tokenizer_fixture.h"

namespace caravan {
namespace {

using testing::HasSubstr;

std::string ErrorWith(const std::string& file, const std::string& json) {
  std::string folder = WriteToFolder("files_error_" + file, file, json);
  absl::Status status = ReadTokenizerFiles(folder).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder + "/" + file));
  return std::string(status.message());
}

TEST(TokenizerFiles, HaveLlamasDefaultsWhereThereAreNone) {
  auto files = ReadTokenizerFiles(WriteToFolder("files_none", "README", ""));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_TRUE(files->legacy);
  EXPECT_TRUE(files->add_prefix_space);
  EXPECT_TRUE(files->add_bos_token);
  EXPECT_FALSE(files->add_eos_token);
  EXPECT_EQ(files->bos_token, "<s>");
  EXPECT_EQ(files->eos_token, "</s>");
  EXPECT_EQ(files->unk_token, "<unk>");
  EXPECT_TRUE(files->chat_template.empty());
}

TEST(TokenizerFiles, WrongTypesAreNamedWithFileAndKey) {
  constexpr char kConfig[] = "tokenizer_config.json";
  EXPECT_THAT(ErrorWith(kConfig, "{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorWith(kConfig, "[]"), HasSubstr("must hold a JSON object"));
  EXPECT_THAT(ErrorWith(kConfig, R"({"legacy": "no"})"),
              HasSubstr("\"legacy\" must be true or false, it is string"));
  EXPECT_THAT(ErrorWith(kConfig, R"({"add_bos_token": 1})"), HasSubstr("\"add_bos_token\""));
  EXPECT_THAT(ErrorWith(kConfig, R"({"bos_token": 5})"),
              HasSubstr("\"bos_token\" must hold tokens"));
  EXPECT_THAT(ErrorWith(kConfig, R"({"additional_special_tokens": "<x>"})"), HasSubstr("a list"));
  EXPECT_THAT(ErrorWith(kConfig, R"({"added_tokens_decoder": []})"), HasSubstr("an object"));
  EXPECT_THAT(ErrorWith(kConfig, R"({"added_tokens_decoder": {"x": {"content": "a"}}})"),
              HasSubstr("the id \"x\", not a number"));
  EXPECT_THAT(ErrorWith(kConfig, R"({"added_tokens_decoder": {"-1": {"content": "a"}}})"),
              HasSubstr("id -1"));
  EXPECT_THAT(ErrorWith(kConfig, R"({"added_tokens_decoder": {"99999999999": {"content": "a"}}})"),
              HasSubstr("id 99999999999"));
  EXPECT_THAT(
      ErrorWith(kConfig, R"({"added_tokens_decoder": {"5": {"content": "a", "lstrip": 1}}})"),
      HasSubstr("\"lstrip\" of token \"a\""));
  EXPECT_THAT(ErrorWith(kConfig, R"({"chat_template": 5})"), HasSubstr("\"chat_template\""));
  EXPECT_THAT(ErrorWith("added_tokens.json", R"({"<x>": "5"})"), HasSubstr("must be an id"));
  EXPECT_THAT(ErrorWith("tokenizer.json", R"({"added_tokens": [{"content": "a"}]})"),
              HasSubstr("no integer \"id\""));
  EXPECT_THAT(ErrorWith("generation_config.json", R"({"eos_token_id": ["2"]})"),
              HasSubstr("\"eos_token_id\""));
}

TEST(TokenizerFiles, AddedTokensOfTheConfigHideTheOlderFiles) {
  WriteToFolder("files_both", "tokenizer_config.json",
                R"({"added_tokens_decoder": {"7": {"content": "<a>", "rstrip": true}}})");
  WriteToFolder("files_both", "special_tokens_map.json", R"({"bos_token": "<other>"})");
  auto files =
      ReadTokenizerFiles(WriteToFolder("files_both", "added_tokens.json", R"({"<b>": 8})"));
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->added_tokens.size(), 1);
  EXPECT_EQ(files->added_tokens[0].first, 7);
  EXPECT_TRUE(files->added_tokens[0].second.rstrip);
  EXPECT_EQ(files->bos_token, "<s>");
}

TEST(TokenizerFiles, EosIdsOfTheGenerationConfigJoinTheTokenizersOwn) {
  std::string folder = FolderWithModel("files_eos", "llama");
  WriteToFolder("files_eos", "generation_config.json", R"({"eos_token_id": [7, 2]})");
  auto tokenizer = LoadTokenizer(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->vocabulary().eos_ids, testing::ElementsAre(2, 7));
  WriteToFolder("files_eos", "generation_config.json", R"({"eos_token_id": 5000})");
  EXPECT_THAT(std::string(LoadTokenizer(folder).status().message()),
              HasSubstr("eos_token_id 5000 is not in the vocabulary of 1600 tokens"));
}

TEST(TokenizerFiles, ChatTemplateIsFoundWhereTheFolderHasIt) {
  auto read = [](const std::string& file, const std::string& text) {
    std::string name = "files_chat_" + std::to_string(std::hash<std::string>()(text));
    auto files = ReadTokenizerFiles(WriteToFolder(name, file, text));
    return files.ok() ? files->chat_template : std::string(files.status().message());
  };
  EXPECT_EQ(read("tokenizer_config.json", R"({"chat_template": "A"})"), "A");
  EXPECT_EQ(read("tokenizer_config.json", R"({"chat_template": [
      {"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]})"),
            "D");
  EXPECT_EQ(read("chat_template.jinja", "J"), "J");
}

}  // namespace
}  // namespace caravan
