#include "cli/generation_client.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {
namespace {

using OnEvent = std::function<bool(const v1::GenerateResponse&)>;

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
constexpr absl::Duration kLongestBackoff = absl::Seconds(2);

// What had not begun is not tried again: where nothing answers, a person wants to know at once.
bool CanResume(const v1::GenerateRequest& request, const GenerationResult& result) {
  return request.num_samples() <= 1 && !result.started.request_id().empty();
}

void AddEvent(const v1::GenerateResponse& event, GenerationResult* result) {
  if (event.has_started() && result->started.request_id().empty()) {
    result->started = event.started();
  } else if (event.has_tokens() && event.tokens().sample_index() == 0) {
    const absl::Time now = absl::Now();
    result->first_token_at = std::min(result->first_token_at, now);
    result->last_token_at = now;
    result->text += event.tokens().text();
    result->token_ids.insert(result->token_ids.end(), event.tokens().token_ids().begin(),
                             event.tokens().token_ids().end());
  } else if (event.has_finished()) {
    result->finished = event.finished();
  }
}

v1::GenerateRequest Resumed(const v1::GenerateRequest& request, const GenerationResult& result) {
  v1::GenerateRequest next = request;
  next.mutable_sampling()->set_seed(result.started.seed());
  for (const int32_t id : result.token_ids) next.add_resume_token_ids(id);
  return next;
}

}  // namespace

double GenerationResult::tokens_per_second() const {
  const size_t later_tokens = token_ids.size() < 2 ? 0 : token_ids.size() - 1;
  const double seconds = absl::ToDoubleSeconds(last_token_at - first_token_at);
  return later_tokens == 0 || seconds <= 0 ? 0 : static_cast<double>(later_tokens) / seconds;
}

GenerationClient::GenerationClient(std::shared_ptr<grpc::Channel> channel, RetryOptions retry)
    : stub_(v1::Generation::NewStub(std::move(channel))), retry_(retry) {}

absl::StatusOr<GenerationResult> GenerationClient::Generate(const v1::GenerateRequest& request,
                                                            const OnEvent& on_event) {
  GenerationResult result;
  result.sent_at = absl::Now();
  v1::GenerateRequest attempt = request;
  attempt.mutable_output()->set_token_ids(true);  // what a resume sends
  absl::Time give_up_at = absl::Now() + retry_.give_up_after;
  absl::Duration backoff = kFirstBackoff;
  while (true) {
    const size_t tokens_before = result.token_ids.size();
    absl::Status status = RunAttempt(attempt, on_event, &result);
    if (status.ok()) return result;
    if (result.token_ids.size() > tokens_before) {
      give_up_at = absl::Now() + retry_.give_up_after;
      backoff = kFirstBackoff;
    }
    const bool resumes = retry_.enabled && absl::IsUnavailable(status) &&
                         CanResume(request, result) && absl::Now() < give_up_at && !cancelled();
    if (!resumes) return status;
    absl::SleepFor(backoff);
    backoff = std::min(backoff * 2, kLongestBackoff);
    attempt = Resumed(request, result);
    attempt.mutable_output()->set_token_ids(true);
    ++result.num_resumes;
  }
}

absl::Status GenerationClient::RunAttempt(const v1::GenerateRequest& request,
                                          const OnEvent& on_event, GenerationResult* result) {
  grpc::ClientContext context;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (cancelled_) return absl::CancelledError("cancelled");
    context_ = &context;
  }
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
    AddEvent(event, result);
    if (!on_event(event)) Cancel();
  }
  const grpc::Status status = reader->Finish();
  const std::lock_guard<std::mutex> lock(mutex_);
  context_ = nullptr;
  return cancelled_ ? absl::CancelledError("cancelled") : FromGrpcStatus(status);
}

void GenerationClient::Cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  if (context_ != nullptr) context_->TryCancel();
}

bool GenerationClient::cancelled() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cancelled_;
}

std::string ReasonName(v1::Finished::Reason reason) {
  switch (reason) {
    case v1::Finished::STOP_TOKEN:
      return "stop token";
    case v1::Finished::STOP_STRING:
      return "stop string";
    case v1::Finished::LENGTH:
      return "length";
    case v1::Finished::CANCELLED:
      return "cancelled";
    default:
      return "error";
  }
}

}  // namespace caravan
