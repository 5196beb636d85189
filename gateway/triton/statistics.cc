#include "gateway/triton/statistics.h"

#include <utility>

namespace caravan {
namespace {

// A stream of thousands of responses has no use for a row each.
constexpr int kMaxResponseIndexes = 64;

uint64_t MillisecondsSinceEpoch() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

double Microseconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

}  // namespace

const char* NameOf(FailureReason reason) {
  switch (reason) {
    case FailureReason::kRejected:
      return "REJECTED";
    case FailureReason::kCanceled:
      return "CANCELED";
    case FailureReason::kBackend:
      return "BACKEND";
    case FailureReason::kOther:
      return "OTHER";
  }
  return "OTHER";
}

FailureReason FailureReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
      return FailureReason::kRejected;
    case absl::StatusCode::kCancelled:
      return FailureReason::kCanceled;
    case absl::StatusCode::kInternal:
      return FailureReason::kBackend;
    default:
      return FailureReason::kOther;
  }
}

StatisticsCounter::StatisticsCounter(std::string name, std::string version) {
  statistics_.name = std::move(name);
  statistics_.version = std::move(version);
}

void StatisticsCounter::Begin() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++statistics_.pending_requests;
}

void StatisticsCounter::EndSuccess(int64_t rows, const InferTimes& times) {
  const std::lock_guard<std::mutex> lock(mutex_);
  --statistics_.pending_requests;
  AddTimes(rows, times);
}

void StatisticsCounter::AddExecution(int64_t rows, const InferTimes& times) {
  const std::lock_guard<std::mutex> lock(mutex_);
  AddTimes(rows, times);
}

// REQUIRES: mutex_ is held.
void StatisticsCounter::AddTimes(int64_t rows, const InferTimes& times) {
  statistics_.last_inference_ms = MillisecondsSinceEpoch();
  statistics_.inference_count += static_cast<uint64_t>(rows);
  ++statistics_.execution_count;
  statistics_.success.Add(times.total);
  statistics_.queue.Add(times.queue);
  statistics_.compute_input.Add(times.compute_input);
  statistics_.compute_infer.Add(times.compute_infer);
  statistics_.compute_output.Add(times.compute_output);
  ModelStatistics::Batch& batch = statistics_.batches[rows];
  batch.compute_input.Add(times.compute_input);
  batch.compute_infer.Add(times.compute_infer);
  batch.compute_output.Add(times.compute_output);
  if (latencies_ == nullptr) return;
  latencies_->request.Observe(Microseconds(times.total));
  latencies_->queue.Observe(Microseconds(times.queue));
  latencies_->compute_input.Observe(Microseconds(times.compute_input));
  latencies_->compute_infer.Observe(Microseconds(times.compute_infer));
  latencies_->compute_output.Observe(Microseconds(times.compute_output));
}

void StatisticsCounter::KeepLatencies() { latencies_ = std::make_unique<LatencyMetrics>(); }

void StatisticsCounter::EndFailure(const absl::Status& status, std::chrono::nanoseconds total) {
  const std::lock_guard<std::mutex> lock(mutex_);
  --statistics_.pending_requests;
  CountFailure(status, total);
}

void StatisticsCounter::AddFailure(const absl::Status& status, std::chrono::nanoseconds total) {
  const std::lock_guard<std::mutex> lock(mutex_);
  CountFailure(status, total);
}

// REQUIRES: mutex_ is held.
void StatisticsCounter::CountFailure(const absl::Status& status, std::chrono::nanoseconds total) {
  statistics_.fail.Add(total);
  ++statistics_.failures[static_cast<size_t>(FailureReasonOf(status))];
}

void StatisticsCounter::AddResponse(const ResponseTimes& times, bool empty) {
  if (times.index >= kMaxResponseIndexes) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  ModelStatistics::Response& response = statistics_.responses[times.index];
  if (empty) return response.empty_response.Add(times.total());
  response.success.Add(times.total());
  response.compute_infer.Add(times.compute_infer);
  response.compute_output.Add(times.compute_output);
}

void StatisticsCounter::AddFailedResponse(const ResponseTimes& times, const absl::Status& status) {
  if (times.index >= kMaxResponseIndexes) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  ModelStatistics::Response& response = statistics_.responses[times.index];
  (absl::IsCancelled(status) ? response.cancel : response.fail).Add(times.total());
}

void StatisticsCounter::AddFirstResponse(std::chrono::nanoseconds duration) {
  if (latencies_ != nullptr) latencies_->first_response.Observe(Microseconds(duration) / 1000);
}

ModelStatistics StatisticsCounter::Snapshot() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return statistics_;
}

}  // namespace caravan
