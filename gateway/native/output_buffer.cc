#include "gateway/native/output_buffer.h"

#include <algorithm>
#include <utility>

#include "common/status.h"

namespace caravan {

namespace {

constexpr int kMaxTextBytesOfToken = 64;  // commonly; the limits' own slack takes longer ones

OutputLimits WithBurst(OutputLimits limits, const ValidatedRequest& request) {
  const int tokens = request.burst_tokens();
  const int top = static_cast<int>(request.spec().output.logprobs.value_or(0));
  const int bytes_of_token = static_cast<int>(sizeof(OutputChunk)) + kMaxTextBytesOfToken +
                             top * static_cast<int>(sizeof(OutputToken::top_logprobs[0]));
  limits.max_buffered_tokens += tokens;
  limits.max_buffered_bytes += tokens * bytes_of_token;
  return limits;
}

}  // namespace

OutputBuffer::OutputBuffer(const OutputLimits& limits, OutputView view,
                           const ValidatedRequest& request)
    : limits_(WithBurst(limits, request)),
      view_(std::move(view)),
      samples_(request.num_sequences()) {}

size_t OutputBuffer::BytesOf(const OutputChunk& chunk) {
  return sizeof(OutputChunk) + chunk.text.size() +
         chunk.token.top_logprobs.size() * sizeof(chunk.token.top_logprobs[0]);
}

void OutputBuffer::Add(const StartedInfo& started) { started_ = started; }

absl::Status OutputBuffer::Add(OutputChunk chunk) {
  buffered_tokens_ += chunk.has_token ? 1 : 0;
  buffered_bytes_ += BytesOf(chunk);
  samples_[chunk.sample_index].chunks.push_back(std::move(chunk));
  if (buffered_tokens_ <= limits_.max_buffered_tokens &&
      buffered_bytes_ <= static_cast<size_t>(limits_.max_buffered_bytes)) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the client reads too slowly: ", buffered_tokens_, " tokens (", buffered_bytes_,
                   " bytes) wait for it; at most ", limits_.max_buffered_tokens, " tokens and ",
                   limits_.max_buffered_bytes, " bytes are kept"));
}

void OutputBuffer::Add(SampleEnd end) {
  SampleQueue& sample = samples_[end.sample_index];
  sample.end = std::move(end);
}

void OutputBuffer::DropChunks() {
  for (SampleQueue& sample : samples_) sample.chunks.clear();
  buffered_tokens_ = 0;
  buffered_bytes_ = 0;
}

void OutputBuffer::Abandon(const absl::Status& status) {
  DropChunks();
  for (SampleQueue& sample : samples_) {
    if (!sample.end.has_value()) continue;
    sample.end->reason = EndReason::kError;
    sample.end->status = status;
  }
}

bool OutputBuffer::HasNext(const SampleQueue& sample) const {
  return sample.chunks.empty() ? sample.end.has_value() : CanLeave(sample.chunks.front());
}

bool OutputBuffer::HasNext() const {
  return started_.has_value() ||
         std::any_of(samples_.begin(), samples_.end(),
                     [this](const SampleQueue& sample) { return HasNext(sample); });
}

bool OutputBuffer::empty() const {
  return !started_.has_value() &&
         std::all_of(samples_.begin(), samples_.end(), [](const SampleQueue& sample) {
           return sample.chunks.empty() && !sample.end.has_value();
         });
}

v1::GenerateResponse OutputBuffer::Next() {
  v1::GenerateResponse response;
  if (started_.has_value()) {
    *response.mutable_started() = ToProto(*started_);
    started_.reset();
    return response;
  }
  while (!HasNext(samples_[turn_ % samples_.size()])) ++turn_;
  SampleQueue& sample = samples_[turn_ % samples_.size()];
  if (sample.chunks.empty()) {
    *response.mutable_finished() = ToProto(*sample.end);
    sample.end.reset();
  } else {
    Take(&sample, response.mutable_tokens());
    ++turn_;
  }
  return response;
}

void OutputBuffer::Take(SampleQueue* sample, v1::TokenEvent* event) {
  size_t bytes = 0;
  while (!sample->chunks.empty() && CanLeave(sample->chunks.front()) && bytes < kMaxMessageBytes) {
    OutputChunk chunk = std::move(sample->chunks.front());
    sample->chunks.pop_front();
    const size_t chunk_bytes = BytesOf(chunk);
    bytes += chunk_bytes;
    buffered_bytes_ -= chunk_bytes;
    if (chunk.has_token) {
      --buffered_tokens_;
      if (credit_.has_value()) --*credit_;
    }
    AppendTo(std::move(chunk), view_, event);
  }
}

}  // namespace caravan
