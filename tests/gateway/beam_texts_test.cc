#include "gateway/generation/beam_texts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace caravan {
namespace {

using testing::HasSubstr;

constexpr int32_t kFirstWord = 259;  // before them: <unk>, <s>, </s>, and 256 bytes

std::shared_ptr<const Vocabulary> MakeVocabulary() {
  auto vocabulary = std::make_shared<Vocabulary>();
  vocabulary->tokens = {"<unk>", "<s>", "</s>"};
  vocabulary->special_token_ids = {0, 1, 2};
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary->tokens.emplace_back(1, static_cast<char>(byte));
  }
  for (const char* word :
       {" the", " ", "a", "b", "ab", " b", "\xc3\xa9", "\xf0\x9f\x98\x80!", ""}) {
    if (word[0] == ' ') {
      vocabulary->word_token_ids.insert(static_cast<int32_t>(vocabulary->tokens.size()));
    }
    vocabulary->tokens.emplace_back(word);
  }
  vocabulary->size = static_cast<int32_t>(vocabulary->tokens.size());
  return vocabulary;
}

// Whole decoding, as the tokenizer service defines it, in whole characters.
std::string WholeText(const Vocabulary& vocabulary, const std::vector<int32_t>& prompt,
                      const std::vector<int32_t>& output, size_t num_output, bool keep) {
  std::string bytes;
  bool at_start = true;
  for (size_t i = 0; i < prompt.size() + num_output; ++i) {
    const int32_t id = i < prompt.size() ? prompt[i] : output[i - prompt.size()];
    if (id < 3 && !keep) continue;
    const std::string& token = vocabulary.tokens[static_cast<size_t>(id)];
    bytes += at_start && vocabulary.word_token_ids.contains(id) ? token.substr(1) : token;
    at_start = false;
  }
  std::string text;
  Utf8Assembler().Append(bytes, text);
  return text;
}

struct Expected {
  std::string text;
  size_t num_tokens = 0;
};

// The first byte that completes a stop string decides, of several the longest.
Expected ExpectedOf(const RequestSpec& spec, const Vocabulary& vocabulary,
                    const std::vector<int32_t>& prompt, const std::vector<int32_t>& output) {
  const bool keep = spec.output.keep_special_tokens;
  const size_t start = WholeText(vocabulary, prompt, output, 0, keep).size();
  std::string before;
  for (size_t tokens = 1; tokens <= output.size(); ++tokens) {
    const std::string text = WholeText(vocabulary, prompt, output, tokens, keep).substr(start);
    EXPECT_TRUE(text.starts_with(before));
    for (size_t end = before.size() + 1; end <= text.size(); ++end) {
      std::string stop;
      for (const std::string& candidate : spec.stopping.stop_strings) {
        const bool ends_here = std::string_view(text).substr(0, end).ends_with(candidate);
        if (ends_here && candidate.size() > stop.size()) stop = candidate;
      }
      if (stop.empty() || tokens <= spec.stopping.min_tokens) continue;
      return {text.substr(0, spec.stopping.include_stop ? end : end - stop.size()), tokens};
    }
    before = text;
  }
  return {before, output.size()};
}

class BeamTextsTest : public testing::Test {
 protected:
  int Draw(int most) { return static_cast<int>(random_() % static_cast<unsigned>(most + 1)); }
  // Bytes that begin, continue and break characters are frequent.
  int32_t DrawToken() {
    constexpr int kBytes[] = {0x80, 0xa9, 0xbf, 0xc3, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0xff, 'a', ' '};
    switch (Draw(9)) {
      case 0:
        return Draw(2);
      case 1:
        return 3 + Draw(255);
      case 2:
      case 3:
      case 4:
        return 3 + kBytes[Draw(static_cast<int>(std::size(kBytes)) - 1)];
      default:
        return kFirstWord + Draw(vocabulary_->size - kFirstWord - 1);
    }
  }
  std::vector<int32_t> DrawTokens(int most) {
    std::vector<int32_t> ids(static_cast<size_t>(Draw(most)));
    for (int32_t& id : ids) id = DrawToken();
    return ids;
  }
  RequestSpec DrawSpec() {
    RequestSpec spec;
    spec.output.keep_special_tokens = Draw(1) == 0;
    spec.stopping.include_stop = Draw(1) == 0;
    spec.stopping.min_tokens = static_cast<uint32_t>(Draw(1) * Draw(8));
    const std::vector<std::string> stops = {"ba", "aba", "b the", "\xc3\xa9", "</s>", "bbb"};
    for (const std::string& stop : stops) {
      if (Draw(5) == 0) spec.stopping.stop_strings.push_back(stop);
    }
    return spec;
  }
  // As a search moves on: each beam continues one of the last look, or one that was not shown.
  void Advance(std::vector<std::vector<int32_t>>* beams) {
    const std::vector<std::vector<int32_t>> last = *beams;
    for (std::vector<int32_t>& beam : *beams) {
      beam = last[static_cast<size_t>(Draw(static_cast<int>(last.size()) - 1))];
      if (Draw(7) == 0) beam.resize(static_cast<size_t>(Draw(static_cast<int>(beam.size()))));
      for (const int32_t id : DrawTokens(4)) beam.push_back(id);
    }
  }

  std::mt19937 random_{20261126};
  const std::shared_ptr<const Vocabulary> vocabulary_ = MakeVocabulary();
};

TEST_F(BeamTextsTest, AreWholeDecodingsHoweverBeamsChange) {
  for (int round = 0; round < 3000; ++round) {
    const RequestSpec spec = DrawSpec();
    std::vector<int32_t> prompt = DrawTokens(6);
    if (Draw(3) == 0) prompt.assign(2, 1);  // shows nothing, where special tokens do not
    BeamTexts texts(spec, vocabulary_, prompt);
    std::vector<std::vector<int32_t>> beams(static_cast<size_t>(2 + Draw(3)));
    for (int look = 0; look < 8; ++look) {
      Advance(&beams);
      std::vector<BeamState> shown(beams.size());
      for (size_t i = 0; i < beams.size(); ++i) {
        shown[i].token_ids = beams[i];
        shown[i].logprobs.resize(beams[i].size());
      }
      ASSERT_TRUE(texts.Decode(&shown).ok());
      for (size_t i = 0; i < beams.size(); ++i) {
        const Expected expected = ExpectedOf(spec, *vocabulary_, prompt, beams[i]);
        ASSERT_EQ(shown[i].text, expected.text) << "round " << round << " look " << look;
        ASSERT_EQ(shown[i].token_ids.size(), expected.num_tokens);
        ASSERT_EQ(shown[i].logprobs.size(), expected.num_tokens);
      }
    }
  }
}

// As a sample's text: what the prompt began belongs to the token that completes it.
TEST_F(BeamTextsTest, ACharacterThatThePromptBegan) {
  const std::string bytes = "x\xf0\x9f\x98\x80";
  for (size_t in_prompt = 1; in_prompt <= bytes.size(); ++in_prompt) {
    std::vector<int32_t> ids;
    for (const char byte : bytes) ids.push_back(3 + static_cast<unsigned char>(byte));
    const auto middle = ids.begin() + static_cast<ptrdiff_t>(in_prompt);
    BeamTexts texts(RequestSpec(), vocabulary_, {ids.begin(), middle});
    std::vector<BeamState> shown(1);
    shown[0].token_ids.assign(middle, ids.end());
    ASSERT_TRUE(texts.Decode(&shown).ok());
    EXPECT_EQ(shown[0].text, in_prompt == bytes.size() ? "" : bytes.substr(1));
  }
}

TEST_F(BeamTextsTest, AnIdThatTheTokenizerLacksIsAnError) {
  BeamTexts texts(RequestSpec(), vocabulary_, {1});
  for (const int32_t id : {vocabulary_->size, -1}) {
    std::vector<BeamState> shown(1);
    shown[0].token_ids = {kFirstWord, id};
    const absl::Status status = texts.Decode(&shown);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("has ids from 0 to 267"));
  }
}

}  // namespace
}  // namespace caravan
