#include "gateway/triton/http/http_error.h"

#include <gtest/gtest.h>

#include <utility>

namespace caravan {
namespace {

// Triton's statuses for the codes that it has, and those beyond.
TEST(HttpError, StatusOfEachCode) {
  using Code = absl::StatusCode;
  const std::pair<Code, int> statuses[] = {
      {Code::kUnknown, 400},         {Code::kInternal, 500},         {Code::kNotFound, 404},
      {Code::kInvalidArgument, 400}, {Code::kUnavailable, 503},      {Code::kUnimplemented, 501},
      {Code::kAlreadyExists, 400},   {Code::kCancelled, 400},        {Code::kDeadlineExceeded, 504},
      {Code::kAborted, 500},         {Code::kResourceExhausted, 429}};
  for (const auto& [code, status] : statuses) {
    const HttpResponse response = MakeErrorResponse(absl::Status(code, "a \"reason\""));
    EXPECT_EQ(response.status, status) << absl::StatusCodeToString(code);
    EXPECT_EQ(response.body, R"({"error":"a \"reason\""})");
    EXPECT_EQ(response.content_type, "application/json");
    EXPECT_EQ(response.headers.size(), status == 429 || status == 503 ? 1u : 0u);
  }
}

}  // namespace
}  // namespace caravan
