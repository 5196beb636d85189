#include "cli/load_report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/terminal.h"
#include "common/server.h"
#include "nlohmann/json.hpp"

namespace caravan {

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  const auto count = static_cast<double>(values.size());
  const auto rank = static_cast<int64_t>(std::ceil(percent / 100 * count)) - 1;
  const auto nth = values.begin() + std::clamp<int64_t>(rank, 0, values.size() - 1);
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

Percentiles PercentilesOf(const std::vector<double>& values) {
  return {.p50 = Percentile(values, 50),
          .p90 = Percentile(values, 90),
          .p99 = Percentile(values, 99),
          .most = Percentile(values, 100)};
}

LoadReport MakeReport(const std::vector<RequestRecord>& records) {
  LoadReport report;
  absl::Time first = absl::InfiniteFuture();
  absl::Time last = absl::InfinitePast();
  std::vector<double> first_tokens;
  std::vector<double> gaps;
  std::vector<double> whole;
  for (const RequestRecord& record : records) {
    first = std::min(first, record.sent_at);
    last = std::max(last, record.finished_at);
    report.output_tokens += record.output_tokens;
    if (record.cancelled) {
      ++report.cancelled;
      continue;
    }
    if (!record.status.ok()) {
      if (report.failed++ == 0) report.first_error = ToString(record.status);
      continue;
    }
    ++report.succeeded;
    report.prompt_tokens += record.prompt_tokens;
    whole.push_back(absl::ToDoubleMilliseconds(record.finished_at - record.sent_at));
    if (record.output_tokens == 0) continue;
    first_tokens.push_back(absl::ToDoubleMilliseconds(record.first_token_at - record.sent_at));
    gaps.insert(gaps.end(), record.inter_token_ms.begin(), record.inter_token_ms.end());
  }
  if (!records.empty()) report.seconds = absl::ToDoubleSeconds(last - first);
  report.time_to_first_token_ms = PercentilesOf(first_tokens);
  report.inter_token_ms = PercentilesOf(gaps);
  report.end_to_end_ms = PercentilesOf(whole);
  return report;
}

std::string FormatReport(const LoadReport& report) {
  std::vector<std::vector<std::string>> rows = {{"MILLISECONDS", "P50", "P90", "P99", "MAX"}};
  const auto add = [&rows](const char* name, const Percentiles& values) {
    rows.push_back({name, absl::StrFormat("%.2f", values.p50), absl::StrFormat("%.2f", values.p90),
                    absl::StrFormat("%.2f", values.p99), absl::StrFormat("%.2f", values.most)});
  };
  add("time to first token", report.time_to_first_token_ms);
  add("between tokens", report.inter_token_ms);
  add("end to end", report.end_to_end_ms);
  std::string text = absl::StrFormat(
      "%d requests in %.2f s (%d failed%s): %.2f requests/s, %.1f output tokens/s, "
      "%d prompt tokens\n\n",
      report.succeeded, report.seconds, report.failed,
      report.cancelled > 0 ? absl::StrCat(", ", report.cancelled, " cancelled") : "",
      report.requests_per_second(), report.output_tokens_per_second(), report.prompt_tokens);
  text += FormatTable(rows);
  if (report.failed > 0) absl::StrAppend(&text, "\nfirst failure: ", report.first_error, "\n");
  return text;
}

nlohmann::json ReportToJson(const LoadReport& report, const LoadOptions& options) {
  const auto percentiles = [](const Percentiles& values) {
    return nlohmann::json{
        {"p50", values.p50}, {"p90", values.p90}, {"p99", values.p99}, {"max", values.most}};
  };
  return {{"options",
           {{"model", options.model},
            {"concurrency", options.rate > 0 ? 0 : options.concurrency},
            {"rate", options.rate},
            {"num_requests", options.num_requests},
            {"prompt_tokens", {options.prompt_tokens.least, options.prompt_tokens.most}},
            {"output_tokens", {options.output_tokens.least, options.output_tokens.most}},
            {"ignore_eos", options.ignore_eos},
            {"text", options.text},
            {"temperature", options.temperature},
            {"seed", options.seed}}},
          {"succeeded", report.succeeded},
          {"failed", report.failed},
          {"cancelled", report.cancelled},
          {"first_error", report.first_error},
          {"seconds", report.seconds},
          {"prompt_tokens", report.prompt_tokens},
          {"output_tokens", report.output_tokens},
          {"requests_per_second", report.requests_per_second()},
          {"output_tokens_per_second", report.output_tokens_per_second()},
          {"time_to_first_token_ms", percentiles(report.time_to_first_token_ms)},
          {"inter_token_ms", percentiles(report.inter_token_ms)},
          {"end_to_end_ms", percentiles(report.end_to_end_ms)}};
}

}  // namespace caravan
