// Text ↔ token ids for the gateway, over all tokenizer services that it was given.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "gateway/event_loop.h"
#include "gateway/generation/tokenizer_session.h"
#include "gateway/metrics.h"

namespace caravan {

struct TokenizerClientOptions {
  std::vector<std::string> addresses;
  std::chrono::milliseconds timeout{5000};  // how long to look for a tokenizer that answers
};

// Loop thread only. A lost tokenizer is not noticed by callers while another one, or the same one
// again, is there within the time-out: calls are repeated, decoding goes on where it was. All
// tokenizers are taken to be equal; one whose fingerprint differs from the first's is not used.
class TokenizerClient : private TokenizerSession::Listener {
 public:
  // `on_change` is called on the loop when a tokenizer was reached or lost.
  TokenizerClient(EventLoop* loop, TokenizerClientOptions options, GatewayMetrics* metrics,
                  std::function<void()> on_change);
  ~TokenizerClient() override;

  void Start();

  // Of the first tokenizer reached; nullptr before.
  const std::shared_ptr<const Vocabulary>& vocabulary() const { return vocabulary_; }
  // What each of those connected takes in one call. Encode and Decode take any number of inputs, in
  // as many calls as need be; one text or sequence must be within bounds.
  const TokenizerBounds& bounds() const { return bounds_; }
  // Whether one that can be used is connected now.
  bool connected() const;

  // One call being made; forgetting it does not cancel it.
  class Call {
   public:
    virtual ~Call() = default;
    // The callback will not be called any more.
    virtual void Cancel() = 0;
  };
  struct CallOptions {
    std::string request_id;  // travel in the metadata
    std::string traceparent;
    EventLoop::Clock::time_point deadline = EventLoop::Clock::time_point::max();
  };
  template <typename Response>
  using Callback = absl::AnyInvocable<void(absl::StatusOr<Response>)>;

  // `done` is called on the loop, never from inside. UNAVAILABLE where no tokenizer answers within
  // the time-out.
  std::shared_ptr<Call> Encode(const CallOptions& options, v1::EncodeRequest request,
                               Callback<v1::EncodeResponse> done);
  std::shared_ptr<Call> Decode(const CallOptions& options, v1::DecodeRequest request,
                               Callback<v1::DecodeResponse> done);

  // Begins to decode a sequence; `listener` is told until Drop, or until it has been told that the
  // sequence closed or failed. Returns the sequence's id.
  uint64_t Open(std::vector<int32_t> context_token_ids, bool keep_special_tokens,
                DecodeListener* listener);
  void Append(uint64_t sequence, int32_t token_id);
  // No more tokens: OnDecodeClosed follows.
  void Close(uint64_t sequence);
  // Nothing more is heard of it. An unknown one is ignored.
  void Drop(uint64_t sequence);

 private:
  template <typename Request, typename Response>
  using Method = void (*)(v1::Tokenizer::Stub*, grpc::ClientContext*, const Request*, Response*,
                          std::function<void(grpc::Status)>);
  template <typename Request, typename Response>
  class RetriedCall;
  template <typename Request, typename Response>
  class PartedCall;
  struct OpenSequence {
    DecodeSequence sequence;
    TokenizerSession* session = nullptr;  // nullptr: waits for one
  };

  void OnTokenizerConnected(TokenizerSession* session) override;
  void OnTokenizerLost(TokenizerSession* session, std::vector<DecodeSequence*> sequences) override;
  void OnSequenceEnded(uint64_t id) override { sequences_.erase(id); }

  template <typename Request, typename Response>
  std::shared_ptr<Call> Make(const CallOptions& options, std::vector<Request> parts,
                             Callback<Response> done, Method<Request, Response> method);
  bool usable(const TokenizerSession& session) const;
  // The connected one with the fewest sequences, round robin among equals; nullptr: none.
  TokenizerSession* Pick();
  void AttachOrWait(OpenSequence* open);
  void FailWaiting(uint64_t sequence);
  void CountConnected();

  EventLoop* const loop_;
  const TokenizerClientOptions options_;
  GatewayMetrics* const metrics_;
  const std::function<void()> on_change_;
  std::vector<std::unique_ptr<TokenizerSession>> sessions_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  TokenizerBounds bounds_;
  size_t next_session_ = 0;
  uint64_t next_sequence_ = 1;
  absl::flat_hash_map<uint64_t, std::unique_ptr<OpenSequence>> sequences_;
  std::shared_ptr<TokenizerClient*> self_;  // null inside once destroyed: for calls and timers
};

}  // namespace caravan
