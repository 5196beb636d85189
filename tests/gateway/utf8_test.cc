#include "gateway/generation/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace caravan {
namespace {

std::string Encode(uint32_t c) {
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  std::string text;
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  const int lead = more == 1 ? 0xc0 : more == 2 ? 0xe0 : 0xf0;
  text.push_back(static_cast<char>(lead | (c >> (6 * more))));
  for (int i = more - 1; i >= 0; --i) text.push_back(static_cast<char>(0x80 | (c >> (6 * i) & 63)));
  return text;
}

TEST(Utf8, AcceptsEveryScalarValueAndNoSurrogate) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    const bool surrogate = c >= 0xd800 && c < 0xe000;
    ASSERT_EQ(FirstInvalidUtf8(Encode(c)).has_value(), surrogate) << c;
  }
  EXPECT_TRUE(FirstInvalidUtf8(Encode(0x110000)).has_value());
}

TEST(Utf8, NamesTheOffsetOfTheFirstWrongByte) {
  EXPECT_EQ(FirstInvalidUtf8("plain text of more than eight bytes\xff"), 35u);
  EXPECT_EQ(FirstInvalidUtf8("\xc3\xa4\xc3"), 2u);    // cut off
  EXPECT_EQ(FirstInvalidUtf8("ab\xc0\x80"), 2u);      // overlong
  EXPECT_EQ(FirstInvalidUtf8("\xe0\x80\x80"), 0u);    // overlong
  EXPECT_EQ(FirstInvalidUtf8("\x80"), 0u);            // no lead
  EXPECT_EQ(FirstInvalidUtf8("a\xf0\x9f\x98x"), 1u);  // third trail missing
  EXPECT_EQ(FirstInvalidUtf8(std::string_view("\0a\0", 3)), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8(""), std::nullopt);
}

}  // namespace
}  // namespace caravan
