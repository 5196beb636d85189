#include "cli/load_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "nlohmann/json.hpp"

namespace caravan {
namespace {

absl::Time At(int ms) { return absl::UnixEpoch() + absl::Milliseconds(ms); }

// Sent at 0, one token at 25 ms, over at 100 ms.
RequestRecord OneToken() {
  RequestRecord record;
  record.sent_at = At(0);
  record.first_token_at = record.last_token_at = At(25);
  record.finished_at = At(100);
  record.output_tokens = 1;
  return record;
}

TEST(Percentile, IsTheNearestRankInAnyOrder) {
  std::vector<double> values(100);
  std::iota(values.begin(), values.end(), 1);
  std::shuffle(values.begin(), values.end(), std::mt19937(1));
  EXPECT_EQ(Percentile(values, 50), 50);
  EXPECT_EQ(Percentile(values, 99), 99);
  EXPECT_EQ(Percentile(values, 100), 100);
  EXPECT_EQ(Percentile({3}, 1), 3);
  EXPECT_EQ(Percentile({}, 50), 0);
}

TEST(LoadReport, CountsFailedRequestsButNotTheirLatencies) {
  RequestRecord good;
  good.sent_at = At(0);
  good.first_token_at = At(20);
  good.last_token_at = At(50);
  good.finished_at = At(60);
  good.prompt_tokens = 5;
  good.output_tokens = 4;
  good.inter_token_ms = {10, 10, 10};
  RequestRecord bad;
  bad.sent_at = At(10);
  bad.finished_at = At(1000);
  bad.status = absl::UnavailableError("gone");
  const LoadReport report = MakeReport({good, bad});
  EXPECT_EQ(report.succeeded, 1);
  EXPECT_EQ(report.failed, 1);
  EXPECT_EQ(report.first_error, "UNAVAILABLE: gone");
  EXPECT_DOUBLE_EQ(report.seconds, 1);
  EXPECT_DOUBLE_EQ(report.output_tokens_per_second(), 4);
  EXPECT_DOUBLE_EQ(report.time_to_first_token_ms.p99, 20);
  EXPECT_DOUBLE_EQ(report.inter_token_ms.p50, 10);
  EXPECT_DOUBLE_EQ(report.end_to_end_ms.most, 60);
}

TEST(LoadReport, CountsOfWhatWasCancelledTheTokensAlone) {
  RequestRecord good = OneToken();
  good.prompt_tokens = 5;
  RequestRecord cancelled = good;
  cancelled.first_token_at = At(90);
  cancelled.finished_at = At(200);
  cancelled.output_tokens = 3;
  cancelled.status = absl::CancelledError("interrupted");
  cancelled.cancelled = true;
  const LoadReport report = MakeReport({good, cancelled});
  EXPECT_EQ(report.succeeded, 1);
  EXPECT_EQ(report.failed, 0);
  EXPECT_EQ(report.cancelled, 1);
  EXPECT_EQ(report.prompt_tokens, 5);
  EXPECT_DOUBLE_EQ(report.output_tokens_per_second(), 4 / 0.2);
  EXPECT_DOUBLE_EQ(report.time_to_first_token_ms.most, 25);
  EXPECT_NE(FormatReport(report).find("(0 failed, 1 cancelled)"), std::string::npos);
}

TEST(LoadReport, GivesTheSameNumbersAsJson) {
  const RequestRecord record = OneToken();
  LoadOptions options;
  options.rate = 3;
  const nlohmann::json json = ReportToJson(MakeReport({record}), options);
  EXPECT_EQ(json["time_to_first_token_ms"]["p90"], 25);
  EXPECT_EQ(json["requests_per_second"], 10);
  EXPECT_EQ(json["options"]["rate"], 3);
}

}  // namespace
}  // namespace caravan
