// What a load test measured.
#pragma once

#include <string>
#include <vector>

#include "cli/load_generator.h"
#include "nlohmann/json_fwd.hpp"

namespace caravan {

// The value below which `percent` of the values lie: the nearest rank, so always one that was
// measured. 0 of an empty list.
double Percentile(std::vector<double> values, double percent);

struct Percentiles {
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double most = 0;
};
Percentiles PercentilesOf(const std::vector<double>& values);

struct LoadReport {
  int succeeded = 0;
  int failed = 0;
  int cancelled = 0;  // their tokens count as output, nothing else of them does
  std::string first_error;
  double seconds = 0;  // from the first request sent to the last one finished
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  // Of the successful requests; milliseconds.
  Percentiles time_to_first_token_ms;
  Percentiles inter_token_ms;
  Percentiles end_to_end_ms;

  double requests_per_second() const { return seconds > 0 ? succeeded / seconds : 0; }
  double output_tokens_per_second() const {
    return seconds > 0 ? static_cast<double>(output_tokens) / seconds : 0;
  }
};

LoadReport MakeReport(const std::vector<RequestRecord>& records);
std::string FormatReport(const LoadReport& report);
nlohmann::json ReportToJson(const LoadReport& report, const LoadOptions& options);

}  // namespace caravan
