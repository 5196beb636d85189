// One sequence of a request on its way out: worker events → tokens, once each → text → stop strings
// → chunks.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "caravan/v1/worker.pb.h"
#include "gateway/generation/output_sink.h"
#include "gateway/generation/request.h"
#include "gateway/generation/stop_strings.h"
#include "gateway/generation/tokenizer_client.h"

namespace caravan {

// Loop thread only. Begin, then events; after `ended()` it does nothing.
class Sample : private DecodeListener {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    // False: the request has ended meanwhile.
    virtual bool OnSampleChunk(OutputChunk chunk) = 0;
    virtual void OnSampleEnded(SampleEnd end) = 0;
    // The request can't go on.
    virtual void OnSampleFailed(const absl::Status& status) = 0;
  };

  // All of them outlive the sample.
  Sample(int index, const ValidatedRequest* request, TokenizerClient* tokenizer, Owner* owner);
  ~Sample() override;

  // `echo` is put before the first chunk's text. Tokens that the client resumes with are decoded
  // again, for the state of decoder and matcher, and not delivered.
  void Begin(const std::vector<int32_t>& prompt_token_ids, std::string echo);

  // Tokens of known positions are dropped; returns how many.
  int OnEvent(const v1::WorkerTokenEvent& event);

  // The request ended: nothing more comes out.
  void Abort();

  bool ended() const { return ended_; }
  // The worker has sent its last event of this sample.
  bool worker_finished() const { return worker_finish_.has_value(); }
  // Delivered tokens, resumed ones included.
  int32_t generated_tokens() const { return num_delivered_; }
  int32_t cached_prompt_tokens() const { return cached_prompt_tokens_; }
  // Everything the worker has sent, resumed ones included: what a resume continues from.
  const std::vector<int32_t>& token_ids() const { return token_ids_; }

 private:
  struct WorkerFinish {
    EndReason reason = EndReason::kLength;
    int32_t stop_token_id = 0;
  };

  void Accept(OutputToken token, bool hide_text);
  void OnWorkerFinish(const v1::WorkerTokenEvent& event);
  void OnDecoded(size_t num_tokens, std::string text) override;
  void OnDecodeClosed(std::string text) override;
  void OnDecodeError(const absl::Status& status) override;
  bool Emit(std::optional<OutputToken> token, std::string text);
  void End(EndReason reason, std::string stop_string = "");
  void EndAtStopString(int matched);

  const int index_;
  const ValidatedRequest* const request_;
  TokenizerClient* const tokenizer_;
  Owner* const owner_;
  StopStringMatcher matcher_;
  std::string echo_;
  uint64_t decode_ = 0;  // the tokenizer client's id; 0 = none open
  std::vector<int32_t> token_ids_;
  std::deque<OutputToken> undecoded_;       // appended to the decoder, not answered
  std::optional<OutputToken> hidden_stop_;  // a stop token whose text is not shown
  size_t resumed_undecoded_ = 0;
  int32_t num_delivered_ = 0;
  int32_t cached_prompt_tokens_ = 0;
  float cumulative_logprob_ = 0;
  std::optional<WorkerFinish> worker_finish_;
  bool ended_ = false;
};

}  // namespace caravan
