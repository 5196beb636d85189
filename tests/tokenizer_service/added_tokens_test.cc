#include "tokenizer_service/added_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using testing::ElementsAre;

AddedToken Token(const std::string& content) {
  AddedToken token;
  token.content = content;
  return token;
}

AddedTokens Make(const std::vector<std::string>& contents) {
  std::vector<std::pair<int32_t, AddedToken>> tokens;
  for (const std::string& content : contents) tokens.emplace_back(tokens.size(), Token(content));
  return AddedTokens(tokens);
}

std::vector<std::string> Texts(const std::vector<Segment>& segments) {
  std::vector<std::string> texts;
  for (const Segment& segment : segments) texts.push_back(segment.text);
  return texts;
}

std::vector<std::string> Cut(const AddedTokens& tokens, std::string_view text) {
  return Texts(tokens.Split(text));
}

TEST(AddedTokens, AreCutOutWhereverTheyStand) {
  AddedTokens tokens = Make({"<s>", "</s>", "🦙"});
  EXPECT_THAT(Cut(tokens, "<s>a</s><s> b"), ElementsAre("<s>", "a", "</s>", "<s>", " b"));
  EXPECT_THAT(Cut(tokens, "é🦙é"), ElementsAre("é", "🦙", "é"));
  EXPECT_THAT(Cut(tokens, "a <s"), ElementsAre("a <s"));
  EXPECT_THAT(Cut(tokens, ""), ElementsAre());
}

TEST(AddedTokens, LongestOfThoseThatBeginTogetherIsTaken) {
  AddedTokens tokens = Make({"extra_id_1", "extra_id_100", "id_100"});
  EXPECT_THAT(Cut(tokens, "extra_id_100 extra_id_10"),
              ElementsAre("extra_id_100", " ", "extra_id_1", "0"));
}

TEST(AddedTokens, EarlierStartWinsOverALaterToken) {
  AddedTokens tokens = Make({"<a<b>", "a<b", "b>"});
  EXPECT_THAT(Cut(tokens, "<a<b> a<b>"), ElementsAre("<a<b>", " ", "a<b", ">"));
}

TEST(AddedTokens, StripTheSpacesThatTheirFlagsName) {
  AddedToken left = Token("<l>");
  left.lstrip = true;
  AddedToken right = Token("<r>");
  right.rstrip = true;
  AddedTokens tokens({{0, left}, {1, right}});
  std::vector<Segment> segments = tokens.Split("a \u3000<l> b <r>\t c");
  tokens.StripAround(segments);
  EXPECT_THAT(Texts(segments), ElementsAre("a", "<l>", " b ", "<r>", "c"));
}

TEST(AddedTokens, SingleWordOnesBecomeTextWhereAWordTouchesThem) {
  AddedToken word = Token("<w>");
  word.single_word = true;
  AddedTokens tokens({{0, word}});
  auto stripped = [&](std::string_view text) {
    std::vector<Segment> segments = tokens.Split(text);
    tokens.StripAround(segments);
    return Texts(segments);
  };
  EXPECT_THAT(stripped("a <w> b"), ElementsAre("a ", "<w>", " b"));
  EXPECT_THAT(stripped("a<w> b"), ElementsAre("a<w>", "", " b"));
  EXPECT_THAT(stripped("a <w>b"), ElementsAre("a ", "", "<w>b"));
}

TEST(AddedTokens, PlainSegmentsAreNeverTokens) {
  AddedTokens tokens = Make({"<s>"});
  EXPECT_EQ(tokens.Find(Segment{"<s>", true}), 0);
  EXPECT_EQ(tokens.Find(Segment{"<s>", false}), -1);
}

}  // namespace
}  // namespace caravan
