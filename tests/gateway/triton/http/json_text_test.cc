#include "gateway/triton/http/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  return std::string(ParseJsonObject(text).status().message());
}

TEST(JsonText, ParsesObjects) {
  const auto json = ParseJsonObject(R"({"a":[1,{"b":null}],"c":{"d":[[],{}]},"e":1.5})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->dump(), R"({"a":[1,{"b":null}],"c":{"d":[[],{}]},"e":1.5})");
  EXPECT_EQ(ParseJsonObject("{}")->size(), 0);
}

TEST(JsonText, SaysWhereItIsNotJson) {
  for (const char* text : {"", "{", "{\"a\":}", "{\"a\":1,}", "nul", "{} x", "{\"a\":\"\xff\"}"}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("failed to parse the request JSON buffer")) << text;
  }
  EXPECT_THAT(ErrorOf("[1]"), HasSubstr("expected an object, found an array of 1"));
  EXPECT_THAT(ErrorOf(R"({"a":{"b":1,"b":2}})"), HasSubstr("\"b\" occurs twice"));
}

TEST(JsonText, StopsBombs) {
  const std::string deep(1 << 20, '[');
  EXPECT_THAT(ErrorOf("{\"a\":" + deep), HasSubstr("more than 64 levels"));
  for (const std::string value : {"0", "{}", "[]", "\"\"", "{\"\":0}"}) {
    std::string wide = "{\"a\":[";
    while (wide.size() < (64 << 20)) wide += value + ",";
    EXPECT_THAT(ErrorOf(wide + "0]}"), HasSubstr("more than 134217728 bytes")) << value;
  }
}

TEST(JsonText, WritesAnyBytes) {
  EXPECT_EQ(ToText({{"text", "a\xff\"b"}}), "{\"text\":\"a\xEF\xBF\xBD\\\"b\"}");
  EXPECT_EQ(Brief(std::string("\xff")), "\"\\ufffd\"");
  EXPECT_LT(Brief(std::string(100000, 'x')).size(), 100);
}

}  // namespace
}  // namespace caravan
