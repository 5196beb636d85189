#include "tokenizer_service/stream_decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/tokenizer_service/tokenizer_fixture.h"

namespace caravan {
namespace {

using Ids = std::vector<int32_t>;

class StreamDecoderTest : public testing::Test {
 protected:
  std::string Append(StreamDecoder& decoder, const Ids& ids) {
    std::string text;
    decoder.Append(ids, text);
    return text;
  }
  std::string Flush(StreamDecoder& decoder) {
    std::string text;
    decoder.Flush(text);
    return text;
  }
  Ids Encode(std::string_view text) { return *tokenizer_->Encode(text, {}); }
  int32_t ByteId(unsigned char byte) const {
    const auto& tokens = vocabulary_.tokens;
    auto found = std::find_if(tokens.begin() + 3, tokens.end(), [&](const auto& token) {
      return token.bytes == std::string(1, static_cast<char>(byte));
    });
    return static_cast<int32_t>(found - tokens.begin());
  }

  std::unique_ptr<Tokenizer> tokenizer_ = LoadGolden("new");
  const Vocabulary& vocabulary_ = tokenizer_->vocabulary();
  const Ids the_ = Encode("the");
};

TEST_F(StreamDecoderTest, TakesTheDummyPrefixAwayAtTheStartOnly) {
  StreamDecoder decoder(&vocabulary_, false);
  EXPECT_EQ(Append(decoder, the_), "the");
  EXPECT_EQ(Append(decoder, the_), " the");
}

TEST_F(StreamDecoderTest, KeepsTheSpaceAfterAPrompt) {
  StreamDecoder decoder(&vocabulary_, false);
  decoder.Skip(Encode("walked under"));
  EXPECT_EQ(Append(decoder, the_), " the");
}

TEST_F(StreamDecoderTest, PromptOfSpecialTokensAloneIsNoText) {
  StreamDecoder decoder(&vocabulary_, false);
  decoder.Skip({1});
  EXPECT_EQ(Append(decoder, the_), "the");
  StreamDecoder keeping(&vocabulary_, true);
  keeping.Skip({1});
  EXPECT_EQ(Append(keeping, the_), " the");
}

TEST_F(StreamDecoderTest, ShowsSpecialTokensOnlyWhereAsked) {
  StreamDecoder decoder(&vocabulary_, false);
  EXPECT_EQ(Append(decoder, {1, the_[0], 2}), "the");
  StreamDecoder keeping(&vocabulary_, true);
  EXPECT_EQ(Append(keeping, {1, the_[0], 2}), "<s> the</s>");
}

TEST_F(StreamDecoderTest, HoldsBackACharacterUntilItsLastByte) {
  StreamDecoder decoder(&vocabulary_, false);
  const std::string llama = "🦙";
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Append(decoder, {ByteId(llama[i])}), "");
  EXPECT_EQ(Append(decoder, {ByteId(llama[3])}), llama);
  EXPECT_EQ(Flush(decoder), "");
}

TEST_F(StreamDecoderTest, ReplacesBytesThatNeverBecomeACharacter) {
  StreamDecoder decoder(&vocabulary_, false);
  EXPECT_EQ(Append(decoder, {ByteId(0xF0), ByteId(0x9F)}), "");
  EXPECT_EQ(Append(decoder, the_), "\uFFFD the");
  EXPECT_EQ(Append(decoder, {ByteId(0xE4)}), "");
  EXPECT_EQ(Flush(decoder), "\uFFFD");
}

TEST_F(StreamDecoderTest, CompletesACharacterThatTheContextBegan) {
  const std::string llama = "🦙";
  StreamDecoder decoder(&vocabulary_, false);
  decoder.Skip({the_[0], ByteId(llama[0]), ByteId(llama[1])});
  EXPECT_EQ(Append(decoder, {ByteId(llama[2]), ByteId(llama[3])}), llama);
}

TEST_F(StreamDecoderTest, GivesTheTextOfTheWholeHoweverTheIdsAreCut) {
  std::mt19937 random(20240229);
  for (int round = 0; round < 5000; ++round) {
    Ids ids(random() % 20);
    for (int32_t& id : ids) {
      id = random() % 2 ? 3 + static_cast<int32_t>(random() % 256)
                        : static_cast<int32_t>(random() % vocabulary_.size());
    }
    bool keep = random() % 2;
    StreamDecoder decoder(&vocabulary_, keep);
    std::string streamed;
    for (size_t begin = 0; begin < ids.size();) {
      size_t end = std::min<size_t>(begin + random() % 4, ids.size());
      decoder.Append(absl::MakeConstSpan(ids).subspan(begin, end - begin), streamed);
      ASSERT_EQ(FindInvalidUtf8(streamed), std::string::npos);
      begin = end;
    }
    decoder.Flush(streamed);
    Utf8Assembler assembler;
    std::string whole;
    assembler.Append(*tokenizer_->Decode(ids, keep), whole);
    assembler.Flush(whole);
    ASSERT_EQ(streamed, whole) << testing::PrintToString(ids);
  }
}

}  // namespace
}  // namespace caravan
