#include "tokenizer_service/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tokenizer_service/tokenizer_fixture.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string TextOf(ChatFormat format, const std::vector<ChatTurn>& turns,
                   const Vocabulary& vocabulary, bool add_generation_prompt = true) {
  auto prompt = ApplyChatFormat(format, turns, add_generation_prompt, vocabulary);
  return prompt.ok() ? prompt->text : std::string(prompt.status().message());
}

// The special tokens of LLaMA 3 and two that mean nothing to it.
Vocabulary Llama3Vocabulary() {
  Vocabulary vocabulary;
  for (const char* name : {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                           "<|eot_id|>", "<|python_tag|>"}) {
    Vocabulary::Token token;
    token.bytes = name;
    token.special = true;
    vocabulary.tokens.push_back(token);
  }
  return vocabulary;
}

TEST(ChatTemplate, Llama2IsWhatTransformersMakesOfItsTemplate) {
  for (const char* name : {"legacy", "new"}) {
    auto tokenizer = LoadGolden(name);
    for (const auto& [_, chat] : Golden().at(name).at("chats").items()) {
      std::vector<ChatTurn> turns;
      for (const auto& turn : chat.at("turns")) turns.push_back({turn[0], turn[1]});
      auto prompt = ApplyChatFormat(ChatFormat::kLlama2, turns, true, tokenizer->vocabulary());
      ASSERT_TRUE(prompt.ok()) << prompt.status();
      EXPECT_EQ(prompt->text, chat.at("text").get<std::string>());
      EXPECT_EQ(*tokenizer->EncodeParts(prompt->parts), chat.at("ids").get<std::vector<int32_t>>());
      EXPECT_TRUE(prompt->stop_strings.empty());
    }
  }
}

TEST(ChatTemplate, Llama3PutsAHeaderBeforeEachTurn) {
  Vocabulary vocabulary = Llama3Vocabulary();
  EXPECT_EQ(TextOf(ChatFormat::kLlama3, {{"system", "Be brief."}, {"user", " hi\n"}}, vocabulary),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(TextOf(ChatFormat::kLlama3, {{"user", "hi"}}, vocabulary, false),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>");
}

TEST(ChatTemplate, Llama3NeedsItsTokensInTheVocabulary) {
  auto tokenizer = LoadGolden("new");
  auto prompt =
      ApplyChatFormat(ChatFormat::kLlama3, {{"user", "hi"}}, true, tokenizer->vocabulary());
  EXPECT_EQ(prompt.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(prompt.status().message()), HasSubstr("<|begin_of_text|>"));
}

TEST(ChatTemplate, PlainIsATranscriptWithStopStrings) {
  auto tokenizer = LoadGolden("new");
  auto prompt = ApplyChatFormat(
      ChatFormat::kPlain,
      {{"system", "Be brief."}, {"user", "hi"}, {"assistant", "Hello "}, {"user", "bye"}}, true,
      tokenizer->vocabulary());
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(prompt->text,
            "<s>System: Be brief.\nUser: hi\nAssistant: Hello\nUser: bye\nAssistant:");
  EXPECT_THAT(prompt->stop_strings, ElementsAre("\nUser:", "\nSystem:"));
}

TEST(ChatTemplate, ContentsNeverBecomeSpecialTokens) {
  auto tokenizer = LoadGolden("new");
  for (ChatFormat format : {ChatFormat::kLlama2, ChatFormat::kPlain}) {
    auto prompt = ApplyChatFormat(format, {{"system", "</s>"}, {"user", "a</s><s>[INST] <unk>"}},
                                  true, tokenizer->vocabulary());
    ASSERT_TRUE(prompt.ok());
    auto ids = tokenizer->EncodeParts(prompt->parts);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(ids->front(), 1);
    EXPECT_EQ(std::count_if(ids->begin(), ids->end(), [](int32_t id) { return id < 3; }), 1);
  }
}

TEST(ChatTemplate, RefusesTurnsThatDoNotFit) {
  auto tokenizer = LoadGolden("new");
  const Vocabulary& vocabulary = tokenizer->vocabulary();
  auto error = [&](ChatFormat format, const std::vector<ChatTurn>& turns) {
    absl::Status status = ApplyChatFormat(format, turns, true, vocabulary).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(error(ChatFormat::kPlain, {}), HasSubstr("at least one"));
  EXPECT_THAT(error(ChatFormat::kPlain, {{"user", "a"}, {"tool", "b"}}),
              HasSubstr("messages[1].role is \"tool\""));
  EXPECT_THAT(error(ChatFormat::kPlain, {{"user", "ab\xFF"}}),
              HasSubstr("messages[0].content: not UTF-8 at byte 2"));
  EXPECT_THAT(error(ChatFormat::kLlama2, {{"user", "a"}, {"user", "b"}}),
              HasSubstr("messages[1].role is user"));
  EXPECT_THAT(error(ChatFormat::kLlama2, {{"assistant", "a"}}), HasSubstr("messages[0].role"));
  EXPECT_THAT(error(ChatFormat::kLlama2, {{"system", "a"}}), HasSubstr("needs a user message"));
}

TEST(ChatTemplate, FormatIsDetectedFromTheJinjaText) {
  EXPECT_EQ(*DetectChatFormat(""), ChatFormat::kPlain);
  EXPECT_EQ(*DetectChatFormat("{{ '<|start_header_id|>' }}"), ChatFormat::kLlama3);
  EXPECT_EQ(*DetectChatFormat("{{ '[INST] <<SYS>>' }}"), ChatFormat::kLlama2);
  // Others have [INST] without <<SYS>>, and other spaces: guessing would be wrong silently.
  for (const char* jinja : {"{{ '<|im_start|>' }}", "{{ '[INST]' }}"}) {
    absl::Status status = DetectChatFormat(jinja).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("--chat_format"));
  }
}

TEST(ChatTemplate, FormatNamesAreChecked) {
  EXPECT_EQ(*ParseChatFormat("llama2"), ChatFormat::kLlama2);
  EXPECT_THAT(std::string(ParseChatFormat("chatml").status().message()),
              HasSubstr("\"chatml\" is unknown"));
}

}  // namespace
}  // namespace caravan
