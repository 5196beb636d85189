#include "gateway/triton/protocol/word_list.h"

#include <gtest/gtest.h>

#include "tests/gateway/triton/protocol/request_maker.h"

namespace caravan {
namespace {

using Words = std::vector<std::string>;

// The expected lists are what Python's csv module says of the same lines.
TEST(WordList, ReadsALineAsPythonsCsvDoes) {
  const std::vector<std::pair<std::string, Words>> cases = {
      {"", {}},
      {"\n", {}},
      {"\r\n", {}},
      {"month", {"month"}},
      {"month, month", {"month", " month"}},
      {"\"a,b\",c", {"a,b", "c"}},
      {"\"\n\"", {"\n"}},
      {"\"say \"\"hi\"\"\"", {"say \"hi\""}},
      {"a,,b", {"a", "b"}},
      {"a\n", {"a"}},
      {"a\"b", {"a\"b"}},
      {"\"a\"b", {"ab"}},
      {"日本,é", {"日本", "é"}},
      {"\"never closed", {"never closed"}},
  };
  for (const auto& [line, expected] : cases) {
    const auto words = ParseWordLine("INPUT_3", line);
    ASSERT_TRUE(words.ok()) << line;
    EXPECT_EQ(*words, expected) << line;
  }
}

TEST(WordList, RefusesARawNewlineInsideALine) {
  const auto words = ParseWordLine("INPUT_3 of row 2", "a\nb");
  ASSERT_FALSE(words.ok());
  EXPECT_EQ(words.status().message(),
            "INPUT_3 of row 2: new-line character seen in unquoted field; put quotes around the "
            "word");
}

CheckedInput IdsInput(int64_t rows, int64_t width, const std::vector<int32_t>& values) {
  return {DataType::kInt32, {rows, 2, width}, Pack(values)};
}

TEST(WordList, BoundsTheWordsOfALine) {
  std::string line = "a";
  for (size_t i = 1; i < kMaxLineWords; ++i) line += ",a";
  EXPECT_EQ(ParseWordLine("x", line)->size(), kMaxLineWords);
  const absl::Status status = ParseWordLine("INPUT_2 of row 3", line + ",a").status();
  EXPECT_EQ(status.message(), "INPUT_2 of row 3 has too many words; at most 256 are allowed");
}

TEST(WordList, ReadsIdsByTheirEndOffsets) {
  const CheckedInput input = IdsInput(2, 3, {5, 6, 7, 2, 3, -1, 9, 0, 0, 1, -1, -1});
  EXPECT_EQ(*ReadWordIds("stop_words_list", input, 0, 10), (WordIds{{5, 6}, {7}}));
  EXPECT_EQ(*ReadWordIds("stop_words_list", input, 1, 10), (WordIds{{9}}));
  EXPECT_EQ(*ReadWordIds("x", IdsInput(1, 1, {0, -1}), 0, 10), WordIds{});
  EXPECT_EQ(*ReadWordIds("x", IdsInput(1, 0, {}), 0, 10), WordIds{});
}

TEST(WordList, RefusesOffsetsAndIdsOutOfRange) {
  const std::vector<std::vector<int32_t>> wrong = {
      {5, 6, 4, -1}, {5, 6, 2, 1}, {5, 10, 2, -1}, {-5, 6, 2, -1}, {5, 6, 2147483647, -1}};
  for (const std::vector<int32_t>& values : wrong) {
    const auto words = ReadWordIds("bad_words_list", IdsInput(1, 2, values), 0, 10);
    ASSERT_FALSE(words.ok());
    EXPECT_NE(words.status().message().find("bad_words_list of row 0"), std::string::npos);
  }
}

TEST(WordList, PacksWhatItReads) {
  const std::vector<WordIds> rows = {{{5, 6}, {7}}, {}, {{1}}};
  const PackedWordIds packed = PackWordIds(rows);
  EXPECT_EQ(packed.shape, (Shape{3, 2, 3}));
  EXPECT_EQ(packed.data,
            Pack<int32_t>({5, 6, 7, 2, 3, -1, 0, 0, 0, -1, -1, -1, 1, 0, 0, 1, -1, -1}));
  const CheckedInput input = {DataType::kInt32, packed.shape, packed.data};
  for (size_t row = 0; row < rows.size(); ++row) {
    EXPECT_EQ(*ReadWordIds("x", input, static_cast<int64_t>(row), 10), rows[row]);
  }
  EXPECT_EQ(PackWordIds({{}}).data, Pack<int32_t>({0, -1}));
}

}  // namespace
}  // namespace caravan
