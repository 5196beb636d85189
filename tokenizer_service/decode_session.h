// One DecodeSession call: many sequences, decoded as their tokens come.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "absl/status/status.h"
#include "caravan/v1/tokenizer.pb.h"
#include "tokenizer_service/config.h"
#include "tokenizer_service/metrics.h"
#include "tokenizer_service/stream_decoder.h"
#include "tokenizer_service/tokenizer.h"

namespace caravan {

// The sequences of a session. One thread at a time.
class DecodeSequences {
 public:
  DecodeSequences(const Vocabulary* vocabulary, const TokenizerLimits& limits)
      : vocabulary_(vocabulary), limits_(limits) {}

  // The answer to a message. False for one that has none (an open that is not refused).
  bool Handle(const v1::DecodeSessionRequest& request, v1::DecodeSessionResponse& response);

  size_t size() const { return decoders_.size(); }

 private:
  bool HandleOne(const v1::DecodeSessionRequest& request, v1::DecodeSessionResponse& response);
  absl::Status Open(const v1::DecodeOpen& open);
  absl::Status Append(const v1::DecodeAppend& append, v1::DecodeSessionResponse& response);
  absl::Status Close(const v1::DecodeClose& close, v1::DecodeSessionResponse& response);
  absl::Status CheckIds(const google::protobuf::RepeatedField<int32_t>& ids) const;

  const Vocabulary* vocabulary_;
  TokenizerLimits limits_;
  std::unordered_map<uint64_t, StreamDecoder> decoders_;
};

// The call itself. Reads one message at a time and answers in order; while the client does not
// read, at most max_session_queued_responses wait and the session is not read either. Deletes
// itself.
class DecodeSessionReactor final
    : public grpc::ServerBidiReactor<v1::DecodeSessionRequest, v1::DecodeSessionResponse> {
 public:
  // What it needs outlives it. `on_done` is called once, right before it is deleted.
  DecodeSessionReactor(const Vocabulary* vocabulary, const TokenizerLimits& limits,
                       TokenizerMetrics* metrics,
                       std::function<void(DecodeSessionReactor*)> on_done);

  // Ends the call, with UNAVAILABLE, as soon as no sequence is open. Any thread.
  void Drain();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void HandleRequest();
  void Count(const v1::DecodeSessionResponse& response);
  void Proceed();
  void FinishOnce(const grpc::Status& status);

  const TokenizerLimits limits_;
  TokenizerMetrics* metrics_;
  std::function<void(DecodeSessionReactor*)> on_done_;
  std::mutex mutex_;  // guards all that follows
  DecodeSequences sequences_;
  v1::DecodeSessionRequest request_;
  std::deque<v1::DecodeSessionResponse> responses_;  // the front one is being written
  bool is_reading_ = false;
  bool is_writing_ = false;
  bool no_more_requests_ = false;
  bool is_draining_ = false;
  bool is_finished_ = false;
};

}  // namespace caravan
