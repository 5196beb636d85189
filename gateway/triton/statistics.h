// What ModelStatistics reports and the nv_inference_* metrics count.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gateway/triton/latency_metrics.h"

namespace caravan {

struct DurationStatistic {
  uint64_t count = 0;
  uint64_t ns = 0;

  // Below 0 counts as 0: a sum that wraps would be wrong for ever.
  void Add(std::chrono::nanoseconds duration) {
    ++count;
    ns += static_cast<uint64_t>(std::max<int64_t>(0, duration.count()));
  }
};

// How a request failed, as the label `reason` of nv_inference_request_failure has it.
enum class FailureReason : uint8_t { kRejected, kCanceled, kBackend, kOther };
inline constexpr int kNumFailureReasons = 4;
const char* NameOf(FailureReason reason);  // "REJECTED", …
FailureReason FailureReasonOf(const absl::Status& status);

// A copy of one model's numbers.
struct ModelStatistics {
  std::string name;
  std::string version;
  uint64_t last_inference_ms = 0;  // since the epoch
  uint64_t inference_count = 0;    // rows of successful requests
  uint64_t execution_count = 0;    // batches executed
  DurationStatistic success;       // from arrival to the final response
  DurationStatistic fail;
  DurationStatistic queue;           // until a replica had it
  DurationStatistic compute_input;   // encoding the prompt
  DurationStatistic compute_infer;   // generating
  DurationStatistic compute_output;  // decoding the last of the text
  std::array<uint64_t, kNumFailureReasons> failures{};
  uint64_t pending_requests = 0;
  struct Batch {
    DurationStatistic compute_input;
    DurationStatistic compute_infer;
    DurationStatistic compute_output;
  };
  std::map<int64_t, Batch> batches;  // by rows of the request
  struct Response {
    DurationStatistic compute_infer;   // until it could be made, since the one before
    DurationStatistic compute_output;  // making it
    DurationStatistic success;         // both together
    DurationStatistic fail;
    DurationStatistic empty_response;
    DurationStatistic cancel;
  };
  std::map<int, Response> responses;  // by index of a streaming request's response, at most 64
};

// Of one response of a streaming request.
struct ResponseTimes {
  int index = 0;  // of the response
  std::chrono::nanoseconds compute_infer{0};
  std::chrono::nanoseconds compute_output{0};

  std::chrono::nanoseconds total() const { return compute_infer + compute_output; }
};

// How long each part of one request took.
struct InferTimes {
  std::chrono::nanoseconds queue{0};
  std::chrono::nanoseconds compute_input{0};
  std::chrono::nanoseconds compute_infer{0};
  std::chrono::nanoseconds compute_output{0};
  std::chrono::nanoseconds total{0};
};

// Counts for one model. Thread-safe.
class StatisticsCounter {
 public:
  StatisticsCounter(std::string name, std::string version);

  void Begin();
  // One of these ends what Begin began.
  void EndSuccess(int64_t rows, const InferTimes& times);
  void EndFailure(const absl::Status& status, std::chrono::nanoseconds total);
  // A part of another request: a model of the ensemble. Without Begin.
  void AddExecution(int64_t rows, const InferTimes& times);
  void AddFailure(const absl::Status& status, std::chrono::nanoseconds total);
  void AddResponse(const ResponseTimes& times, bool empty);
  // The error that a streaming request ends with, in place of a response.
  void AddFailedResponse(const ResponseTimes& times, const absl::Status& status);
  // From the arrival, of any request.
  void AddFirstResponse(std::chrono::nanoseconds duration);

  ModelStatistics Snapshot() const;

  // Distributions are kept from now on. Before the first request.
  void KeepLatencies();
  // nullptr: none are kept. Any thread.
  const LatencyMetrics* latencies() const { return latencies_.get(); }

 private:
  void AddTimes(int64_t rows, const InferTimes& times);
  void CountFailure(const absl::Status& status, std::chrono::nanoseconds total);

  mutable std::mutex mutex_;
  ModelStatistics statistics_;  // guarded by mutex_
  std::unique_ptr<LatencyMetrics> latencies_;
};

}  // namespace caravan
