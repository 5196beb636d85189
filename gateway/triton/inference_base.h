// What inferences of all models have in common: responses, statistics, trace, end.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "gateway/triton/infer_context.h"

namespace caravan {

class InferenceBase : public Inference, public std::enable_shared_from_this<InferenceBase> {
 public:
  InferenceBase(const InferContext* context, InferCall call, InferSink* sink);
  // REQUIRES: the subclass has let go of what it started.
  ~InferenceBase() override;

  bool ended() const override { return ended_; }
  const absl::Status& status() const override { return status_; }
  void Cancel() override;

 protected:
  using Clock = std::chrono::steady_clock;

  const InferContext& context() const { return *context_; }
  const CheckedRequest& request() const { return call_.request; }
  const ServedModel& served() const { return *call_.served; }

  // Ends with an error, unless it has ended with one: stops what runs, tells the sink.
  // RESOURCE_EXHAUSTED becomes UNAVAILABLE, the code of Triton's full queue.
  void Fail(const absl::Status& status);
  // Everything that will come can be taken. Counted once it has been, or nobody is there to take
  // it: the last response may fail to be written where the request wants it.
  void Succeed(const InferTimes& times);
  // Stops what runs for this request; called at most once.
  virtual void Stop() = 0;
  // Counts the failure for the models that the request runs through, beside its own.
  virtual void CountFailedPart(const absl::Status& status) {}
  // Update, then the sink if it has something to take: in a task of their own.
  void NotifySoon();
  virtual void Update() {}

  void Stamp(const char* name) const;
  InferResponse MakeResponse();
  // Puts the output where the request wants it; the error of a region that can't be written.
  absl::Status AddOutput(InferOutput&& output, InferResponse* response);
  // Marks and counts a response of a streaming request.
  void Finalize(bool final, InferResponse* response);

 private:
  void WriteTrace();
  void CountSuccess();
  ResponseTimes TakeResponseTimes();

  const InferContext* const context_;
  InferCall call_;
  InferSink* sink_;
  bool ended_ = false;
  bool notify_posted_ = false;
  absl::Status status_;
  std::optional<InferTimes> uncounted_success_;
  int num_responses_ = 0;
  Clock::time_point last_response_;
  Clock::time_point response_begun_;  // the one being made
};

}  // namespace caravan
