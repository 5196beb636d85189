#include "common/utf8.h"

#include <gtest/gtest.h>

#include <random>

namespace caravan {
namespace {

std::string EncodeCharacter(char32_t c) {
  int length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  constexpr unsigned char kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  std::string out;
  out.push_back(static_cast<char>(kLead[length] | c >> (6 * (length - 1))));
  for (int k = length - 2; k >= 0; --k) {
    out.push_back(static_cast<char>(0x80 | (c >> (6 * k) & 0x3F)));
  }
  return out;
}

std::string Assemble(std::string_view bytes) {
  Utf8Assembler assembler;
  std::string text;
  assembler.Append(bytes, text);
  assembler.Flush(text);
  return text;
}

TEST(FindInvalidUtf8, TakesEveryCharacterOfUnicodeButSurrogates) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    std::string text("1234567");
    text += EncodeCharacter(c);
    text += 'x';
    ASSERT_EQ(FindInvalidUtf8(text), surrogate ? 7 : std::string::npos) << static_cast<uint32_t>(c);
    if (surrogate) continue;
    ASSERT_EQ(Utf8Characters(text)[7].code_point, c);
    ASSERT_EQ(Assemble(text), text);
  }
}

TEST(FindInvalidUtf8, PointsAtTheFirstByteOfTheIllFormedSequence) {
  const std::pair<std::string, size_t> cases[] = {{"abc\x80", 3},
                                                  {"\xC0\x80", 0},
                                                  {"\xC1\xBF", 0},
                                                  {"ab\xE0\x80\x80", 2},
                                                  {"\xF0\x8F\xBF\xBF", 0},
                                                  {"\xF4\x90\x80\x80", 0},
                                                  {"\xF5\x80\x80\x80", 0},
                                                  {"long ascii text \xFF", 16},
                                                  {"\xE4\xB8\x96\xE4\xB8", 3},
                                                  {"\xED\xA0\x80", 0},
                                                  {"x\xE4"
                                                   "b",
                                                   1}};
  for (const auto& [text, at] : cases)
    EXPECT_EQ(FindInvalidUtf8(text), at) << testing::PrintToString(text);
}

TEST(Utf8Assembler, ReplacesEachMaximalSubpartLikePythonAndBrowsers) {
  // The example of the Unicode Standard (table 3-11), and the forms that can never be completed.
  EXPECT_EQ(Assemble("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(Assemble("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
            "A");
  EXPECT_EQ(Assemble("\xED\xA0\x80\xED\xBF\xBF"), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(Assemble("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
            "A\uFFFD\uFFFD"
            "B");
  EXPECT_EQ(Assemble("\xF0\x9F\xA6"), "\uFFFD");
}

TEST(Utf8Assembler, HoldsAnIncompleteCharacterBackAndNothingElse) {
  Utf8Assembler assembler;
  std::string text;
  assembler.Append("ab\xF0\x9F\xA6", text);
  EXPECT_EQ(text, "ab");
  EXPECT_EQ(assembler.num_held(), 3);
  assembler.Append("\x99", text);
  EXPECT_EQ(text, "ab🦙");
  assembler.Append("\xE4\xB8", text);
  assembler.Append("c", text);  // can't become a character any more
  EXPECT_EQ(text, "ab🦙\uFFFDc");
  EXPECT_EQ(assembler.num_held(), 0);
}

TEST(Utf8Assembler, GivesTheSameTextHoweverItsBytesAreCut) {
  std::mt19937 random(20240229);
  const std::string alphabet = "a\x80\xBF\xC2\xE0\xA0\xED\x9F\xF0\x90\xF4\x8F\xFF";
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    for (uint32_t i = random() % 12; i > 0; --i) bytes += alphabet[random() % alphabet.size()];
    Utf8Assembler assembler;
    std::string text;
    for (std::string_view rest = bytes; !rest.empty();) {
      size_t length = std::min<size_t>(random() % 4, rest.size());
      assembler.Append(rest.substr(0, length), text);
      rest.remove_prefix(length);
      ASSERT_EQ(FindInvalidUtf8(text), std::string::npos);
      ASSERT_LE(assembler.num_held(), 3);
    }
    assembler.Flush(text);
    ASSERT_EQ(text, Assemble(bytes)) << testing::PrintToString(bytes);
    ASSERT_EQ(text == bytes, FindInvalidUtf8(bytes) == std::string::npos);
  }
}

TEST(Strip, TakesTheSpacesOfPython) {
  EXPECT_EQ(StripLeft(" \t\n\x1c\u0085\u00a0\u1680\u2003\u2028\u202f\u205f\u3000x "), "x ");
  EXPECT_EQ(StripRight(" x\u3000\u00a0\x1f\r\n"), " x");
  EXPECT_EQ(StripLeft("\u200b x"), "\u200b x");
  EXPECT_EQ(StripRight("x \ufeff"), "x \ufeff");
  EXPECT_EQ(StripLeft("\u3000 "), "");
  EXPECT_EQ(StripRight(""), "");
}

}  // namespace
}  // namespace caravan
