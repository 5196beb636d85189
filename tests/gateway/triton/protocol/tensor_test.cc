#include "gateway/triton/protocol/tensor.h"

#include <gtest/gtest.h>

#include <limits>

namespace caravan {
namespace {

std::string Bytes(const std::vector<std::string>& elements) {
  std::string data;
  for (const std::string& element : elements) AppendBytes(element, &data);
  return data;
}

TEST(Tensor, KnowsEveryDatatypeByNameAndSize) {
  const std::vector<std::pair<const char*, size_t>> types = {
      {"BOOL", 1}, {"UINT8", 1}, {"UINT16", 2}, {"UINT32", 4}, {"UINT64", 8},
      {"INT8", 1}, {"INT16", 2}, {"INT32", 4},  {"INT64", 8},  {"FP16", 2},
      {"FP32", 4}, {"FP64", 8},  {"BYTES", 0},  {"BF16", 2}};
  for (const auto& [name, size] : types) {
    EXPECT_STREQ(NameOf(ParseDataType(name)), name);
    EXPECT_EQ(SizeOf(ParseDataType(name)), size) << name;
  }
  EXPECT_EQ(ParseDataType("STRING"), DataType::kInvalid);
  EXPECT_EQ(ParseDataType("uint32"), DataType::kInvalid);
  EXPECT_EQ(ParseDataType(""), DataType::kInvalid);
}

TEST(Tensor, CountsElementsWithoutOverflow) {
  EXPECT_EQ(*NumElements("x", {}), 1);
  EXPECT_EQ(*NumElements("x", {3, 4}), 12);
  EXPECT_EQ(*NumElements("x", {0, 4}), 0);
  EXPECT_EQ(*NumElements("x", {1 << 15, 1 << 16}), kMaxElements);
  const int64_t most = std::numeric_limits<int64_t>::max();
  for (const Shape& shape : std::vector<Shape>{{-1},
                                               {2, -3},
                                               {most},
                                               {most, most},
                                               {1 << 16, 1 << 16},
                                               {1 << 30, 1 << 30, 1 << 30},
                                               {most, 0}}) {
    const auto count = NumElements("input_ids", shape);
    ASSERT_FALSE(count.ok()) << ToString(shape);
    EXPECT_NE(count.status().message().find("'input_ids'"), std::string::npos);
  }
}

TEST(Tensor, ChecksDataOfFixedSize) {
  EXPECT_TRUE(CheckData("x", DataType::kUint32, 2, std::string(8, 'a')).ok());
  EXPECT_TRUE(CheckData("x", DataType::kUint32, 0, "").ok());
  const absl::Status status = CheckData("x", DataType::kUint32, 2, std::string(7, 'a'));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "input byte size mismatch for input 'x'. Expected 8, got 7");
}

TEST(Tensor, ChecksDataOfStrings) {
  EXPECT_TRUE(CheckData("x", DataType::kBytes, 2, Bytes({"", "abc"})).ok());
  EXPECT_TRUE(CheckData("x", DataType::kBytes, 0, "").ok());
  const auto message = [](int64_t count, const std::string& data) {
    return std::string(CheckData("x", DataType::kBytes, count, data).message());
  };
  EXPECT_NE(message(1, Bytes({"a", "b"})).find("unexpected number of string elements 2"),
            std::string::npos);
  EXPECT_NE(message(1, "\x01").find("incomplete string length indicator"), std::string::npos);
  // A claim of 4 GiB.
  EXPECT_NE(message(1, "\xff\xff\xff\xff...").find("incomplete string data"), std::string::npos);
}

TEST(Tensor, PacksAndUnpacksStrings) {
  const std::string data = Bytes({"", std::string("a\0b", 3), "ccc"});
  const std::vector<std::string_view> elements = UnpackBytes(data);
  ASSERT_EQ(elements.size(), 3u);
  EXPECT_EQ(elements[0], "");
  EXPECT_EQ(elements[1], std::string_view("a\0b", 3));
  EXPECT_EQ(elements[2], "ccc");
}

}  // namespace
}  // namespace caravan
