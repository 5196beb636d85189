#include "gateway/triton/inference_base.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/protocol/classification.h"

namespace caravan {

InferenceBase::InferenceBase(const InferContext* context, InferCall call, InferSink* sink)
    : context_(context),
      call_(std::move(call)),
      sink_(sink),
      last_response_(call_.request.request().arrival),
      response_begun_(last_response_) {
  call_.statistics->Begin();
}

InferenceBase::~InferenceBase() {
  WriteTrace();
  CountSuccess();
  if (ended_) return;
  call_.statistics->EndFailure(absl::CancelledError("the client left"),
                               Clock::now() - request().request().arrival);
}

void InferenceBase::Cancel() {
  sink_ = nullptr;
  Fail(absl::CancelledError("the client cancelled the request"));
}

void InferenceBase::Fail(const absl::Status& status) {
  if (!status_.ok()) return;
  status_ = absl::IsResourceExhausted(status) ? absl::UnavailableError(status.message()) : status;
  status_ = WithRequestId(request().request().id, status_);
  const bool was_ended = std::exchange(ended_, true);
  if (was_ended && !uncounted_success_.has_value()) return;
  uncounted_success_.reset();
  call_.statistics->EndFailure(status_, Clock::now() - request().request().arrival);
  if (request().request().streaming) {
    response_begun_ = Clock::now();
    call_.statistics->AddFailedResponse(TakeResponseTimes(), status_);
  }
  if (was_ended) return;  // only the last response failed
  CountFailedPart(status_);
  WriteTrace();
  Stop();
  NotifySoon();
}

void InferenceBase::Succeed(const InferTimes& times) {
  CARAVAN_CHECK(!ended_);
  ended_ = true;
  uncounted_success_ = times;
}

void InferenceBase::CountSuccess() {
  if (!uncounted_success_.has_value()) return;
  call_.statistics->EndSuccess(request().rows(), *uncounted_success_);
  uncounted_success_.reset();
}

void InferenceBase::NotifySoon() {
  if (std::exchange(notify_posted_, true)) return;
  context_->loop->Post([weak = weak_from_this()] {
    const std::shared_ptr<InferenceBase> self = weak.lock();
    if (self == nullptr) return;
    self->notify_posted_ = false;
    self->Update();
    if (self->sink_ != nullptr && (self->HasNext() || self->ended_)) self->sink_->OnInferReady();
  });
}

void InferenceBase::Stamp(const char* name) const {
  if (call_.trace != nullptr) call_.trace->Stamp(name);
}

InferResponse InferenceBase::MakeResponse() {
  response_begun_ = Clock::now();
  InferResponse response;
  response.model_name = request().model().name;
  response.model_version = std::string(kTritonModelVersion);
  response.id = request().request().id;
  return response;
}

absl::Status InferenceBase::AddOutput(InferOutput&& output, InferResponse* response) {
  if (call_.trace != nullptr) call_.trace->AddTensor("TENSOR_BACKEND_OUTPUT", output);
  if (const int64_t classes = request().ClassesOf(output.name); classes > 0) {
    output = Classify(output, classes);
  }
  if (const SharedMemoryUse* place = request().PlaceOf(output.name)) {
    const size_t size = output.data.size();
    if (size > place->byte_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("shared memory size specified with the request for output '", output.name,
                       "' (", place->byte_size, " bytes) should be at least ", size, " bytes"));
    }
    RETURN_IF_ERROR(call_.places.at(output.name)->Write(place->offset, output.data));
    output.data.clear();
    output.parameters[kSharedMemoryRegion] = place->region;
    output.parameters[kSharedMemoryByteSize] = static_cast<int64_t>(size);
    if (place->offset > 0) {
      output.parameters[kSharedMemoryOffset] = static_cast<int64_t>(place->offset);
    }
  }
  response->outputs.push_back(std::move(output));
  return absl::OkStatus();
}

// Outputs are part of it: it is complete when the last response was taken.
void InferenceBase::WriteTrace() {
  if (call_.trace == nullptr) return;
  Stamp("REQUEST_END");
  context_->traces->Write(*call_.trace);
  call_.trace = nullptr;
}

void InferenceBase::Finalize(bool final, InferResponse* response) {
  if (ended_ && !HasNext()) {
    WriteTrace();
    CountSuccess();
  }
  if (num_responses_ == 0) {
    call_.statistics->AddFirstResponse(Clock::now() - request().request().arrival);
  }
  const ResponseTimes times = TakeResponseTimes();
  if (!request().request().streaming) return;
  response->final = final;
  call_.statistics->AddResponse(times, response->outputs.empty());
}

ResponseTimes InferenceBase::TakeResponseTimes() {
  const auto now = Clock::now();
  const ResponseTimes times = {num_responses_++, response_begun_ - last_response_,
                               now - response_begun_};
  last_response_ = now;
  return times;
}

}  // namespace caravan
