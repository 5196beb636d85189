#include "worker/model/files/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/worker/model/model_folder_fixture.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class SafetensorsTest : public testing::Test {
 protected:
  // The error of opening a file with these bytes.
  std::string ErrorOf(const std::string& bytes) {
    folder_.Write("bad.safetensors", bytes);
    const auto file = SafetensorsFile::Open(folder_.File("bad.safetensors"));
    EXPECT_FALSE(file.ok());
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("bad.safetensors"));
    return std::string(file.status().message());
  }
  // … with one tensor "w" whose header entry is `entry`, and 8 bytes of data.
  std::string ErrorOfEntry(const std::string& entry) {
    return ErrorOf(SafetensorsBytes("{\"w\": " + entry + "}", std::string(8, 'x')));
  }

  TempFolder folder_;
};

TEST_F(SafetensorsTest, ReadsTensorsOfEveryKind) {
  folder_.Write("good.safetensors",
                SafetensorsBytes({FloatTensor("b", {2, 3}, {1, 2, 3, 4, 5, 6}),
                                  {"a", "BF16", {2}, std::string("\x80\x3f\x00\x40", 4)},
                                  {"ids", "I64", {1}, std::string(8, '\1')},
                                  {"none", "F16", {0, 5}, ""},
                                  {"scalar", "F32", {}, std::string(4, '\0')}}));
  const auto file = SafetensorsFile::Open(folder_.File("good.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& tensors = (*file)->tensors();
  ASSERT_EQ(tensors.size(), 5U);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].dtype(), DType::kBFloat16);
  EXPECT_EQ(tensors[1].ShapeText(), "[2, 3]");
  float third = 0;
  std::memcpy(&third, tensors[1].data + 2 * sizeof(float), sizeof(third));
  EXPECT_EQ(third, 3.0F);
  EXPECT_FALSE(tensors[2].dtype().has_value()) << "I64 is read, but no operator takes it";
  EXPECT_EQ(tensors[3].bytes, 0);
  EXPECT_EQ(tensors[4].bytes, 4);
}

TEST_F(SafetensorsTest, RefusesAFileThatIsTooShortForAHeader) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("0 bytes, too few"));
  EXPECT_THAT(ErrorOf("\1\2\3"), HasSubstr("3 bytes, too few"));
}

TEST_F(SafetensorsTest, RefusesAnAbsurdHeaderLength) {
  EXPECT_THAT(ErrorOf(std::string(8, '\xff')), HasSubstr("18446744073709551615"));
  EXPECT_THAT(ErrorOf(std::string("\0\xe1\xf5\x05\0\0\0\1 rest", 13)),
              HasSubstr("must be at most"));
  EXPECT_THAT(ErrorOf(std::string("\x64\0\0\0\0\0\0\0 {}", 11)), HasSubstr("truncated"));
}

TEST_F(SafetensorsTest, RefusesAHeaderThatIsNoJsonObject) {
  EXPECT_THAT(ErrorOf(SafetensorsBytes("{\"w\": ", "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes("[]", "")), HasSubstr("expected a JSON object"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes("", "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes(std::string(10000, '['), "")), HasSubstr("header"));
}

TEST_F(SafetensorsTest, RefusesATensorNameThatOccursTwice) {
  const std::string entry = R"({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})";
  EXPECT_THAT(ErrorOf(SafetensorsBytes("{\"w\": " + entry + ", \"w\": " + entry + "}", "1234")),
              HasSubstr("'w' occurs twice"));
}

TEST_F(SafetensorsTest, RefusesWrongEntries) {
  EXPECT_THAT(ErrorOfEntry("7"), HasSubstr("tensor w: expected an object, found 7"));
  EXPECT_THAT(ErrorOfEntry("{}"), HasSubstr("tensor w: dtype"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F31", "shape": [2], "data_offsets": [0, 8]})"),
              HasSubstr("unknown dtype \"F31\""));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "data_offsets": [0, 8]})"), HasSubstr("shape"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]})"),
              HasSubstr("shape [-2] is negative or too large"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]})"),
              HasSubstr("shape"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [4611686018427387904, 4],
                               "data_offsets": [0, 8]})"),
              HasSubstr("too large"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,2],
                               "data_offsets": [0, 8]})"),
              HasSubstr("more than 8 dimensions"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [2]})"), HasSubstr("data_offsets"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [2], "data_offsets": [8]})"),
              HasSubstr("data_offsets"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]})"),
              HasSubstr("not ascending"));
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]})"),
              HasSubstr("not ascending"));
}

TEST_F(SafetensorsTest, NamesExpectedAndFoundSizes) {
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]})"),
              HasSubstr("shape [3] of F32 takes 12 bytes, data_offsets have 8"));
}

TEST_F(SafetensorsTest, RefusesTensorsBeyondTheEndOfTheFile) {
  EXPECT_THAT(ErrorOfEntry(R"({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})"),
              AllOf(HasSubstr("ends at byte 16"), HasSubstr("the file has 8")));
  const std::string whole = SafetensorsBytes({FloatTensor("w", {2}, {1, 2})});
  for (size_t size = 0; size < whole.size(); ++size) {
    ErrorOf(whole.substr(0, size));  // at every length: an error, no crash
  }
}

TEST_F(SafetensorsTest, RefusesOverlapsAndHoles) {
  const auto two = [](const std::string& offsets) {
    return SafetensorsBytes(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},)"
                            R"( "b": {"dtype": "F32", "shape": [1], "data_offsets": )" +
                                offsets + "}}",
                            "12345678");
  };
  EXPECT_THAT(ErrorOf(two("[0, 4]")), HasSubstr("tensor b: overlaps tensor a"));
  EXPECT_THAT(ErrorOf(two("[2, 6]")), HasSubstr("tensor b: overlaps tensor a"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes(
                  R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})", "12345678")),
              HasSubstr("belong to no tensor"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes(
                  R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", "12345678")),
              HasSubstr("tensors take 4 bytes of data, the file has 8"));
}

TEST_F(SafetensorsTest, SurvivesEveryFlippedByteOfTheHeader) {
  const std::string whole = SafetensorsBytes({FloatTensor("w", {2}, {1, 2})});
  for (size_t i = 0; i < whole.size() - 8; ++i) {
    for (const int bit : {0x01, 0x10, 0x80}) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ bit);
      folder_.Write("flipped.safetensors", bytes);
      const auto file = SafetensorsFile::Open(folder_.File("flipped.safetensors"));
      if (!file.ok()) continue;
      for (const TensorInfo& tensor : (*file)->tensors()) EXPECT_LE(tensor.bytes, 8);
    }
  }
}

TEST_F(SafetensorsTest, NamesAFileThatIsMissingOrAFolder) {
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(folder_.File("none")).status()));
  EXPECT_FALSE(SafetensorsFile::Open(folder_.path()).ok());
}

}  // namespace
}  // namespace caravan
