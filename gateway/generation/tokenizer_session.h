// The gateway's connection to one tokenizer service: its vocabulary, and one decode session that
// all sequences share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "caravan/v1/tokenizer.grpc.pb.h"
#include "gateway/client_stream.h"
#include "gateway/event_loop.h"
#include "gateway/generation/decode_sequence.h"

namespace caravan {

// Loop thread only. Connects, and again with growing pauses (50 ms to 1 s) whenever it breaks. What
// one turn of the loop has for the tokenizer (a step of all sequences) leaves as one message, or as
// several where that would be larger than the tokenizer takes.
class TokenizerSession
    : private ClientStream<v1::DecodeSessionRequest, v1::DecodeSessionResponse>::Handler {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    // The decode session stands. The vocabulary is the session's.
    virtual void OnTokenizerConnected(TokenizerSession* session) = 0;
    // It broke; these sequences must be attached elsewhere.
    virtual void OnTokenizerLost(TokenizerSession* session,
                                 std::vector<DecodeSequence*> sequences) = 0;
    // The sequence closed or failed: its listener has been told, forget it.
    virtual void OnSequenceEnded(uint64_t id) = 0;
  };

  TokenizerSession(EventLoop* loop, const std::string& address, Listener* listener);
  ~TokenizerSession() override;

  void Start() { FetchVocabulary(); }

  bool connected() const { return stream_ != nullptr; }
  const std::string& address() const { return address_; }
  size_t num_sequences() const { return sequences_.size(); }
  // Of the last connection; nullptr before the first.
  const std::shared_ptr<const Vocabulary>& vocabulary() const { return vocabulary_; }
  v1::Tokenizer::Stub* stub() const { return stub_.get(); }

  // Opens the sequence and sends what it has so far, be it new or moved from a broken session.
  // REQUIRES: connected(). `sequence` lives until Detach or OnSequenceEnded.
  void Attach(DecodeSequence* sequence);
  // One more token (the last of sequence.token_ids).
  void Append(const DecodeSequence& sequence);
  void Close(const DecodeSequence& sequence);
  // Forgets the sequence: nothing more is heard of it.
  void Detach(uint64_t id);

 private:
  using Stream = ClientStream<v1::DecodeSessionRequest, v1::DecodeSessionResponse>;
  struct VocabularyCall;

  void FetchVocabulary();
  void OnVocabulary(const grpc::Status& status, const v1::GetVocabularyResponse& response);
  void ReconnectLater(const grpc::Status& status);
  void OnMessage(v1::DecodeSessionResponse response) override;
  void OnClosed(const grpc::Status& status) override;
  void OnAnswer(v1::DecodeSessionResponse answer);
  size_t max_batch_bytes() const;
  void SendAppend(uint64_t id, const int32_t* begin, const int32_t* end);
  void Send(v1::DecodeSessionRequest message);
  void Flush();

  EventLoop* const loop_;
  const std::string address_;
  Listener* const listener_;
  const std::unique_ptr<v1::Tokenizer::Stub> stub_;
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<VocabularyCall> vocabulary_call_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  EventLoop::TimerId reconnect_timer_;
  std::chrono::milliseconds reconnect_pause_;
  bool loss_logged_ = false;
  absl::flat_hash_map<uint64_t, DecodeSequence*> sequences_;
  v1::DecodeSessionRequest batch_;           // not sent yet
  size_t batch_bytes_ = 0;                   // of batch_, at most
  std::shared_ptr<TokenizerSession*> self_;  // null inside once destroyed: for posted flushes
};

}  // namespace caravan
