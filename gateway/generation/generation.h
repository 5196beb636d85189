// One request's life: Admit → Encode → Route → Submit → Deliver → Decode → Finish.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/admission.h"
#include "gateway/event_loop.h"
#include "gateway/generation/beam_texts.h"
#include "gateway/generation/output_sink.h"
#include "gateway/generation/prompt_encoding.h"
#include "gateway/generation/request.h"
#include "gateway/generation/sample.h"
#include "gateway/generation/tokenizer_client.h"
#include "gateway/metrics.h"
#include "gateway/replica_pool.h"

namespace caravan {

// What all requests of a gateway share; outlives them.
struct GenerationContext {
  EventLoop* loop = nullptr;
  ReplicaPool* replicas = nullptr;
  TokenizerClient* tokenizer = nullptr;
  GatewayMetrics* metrics = nullptr;
  std::chrono::milliseconds queue_timeout{0};
  std::function<void()> on_left;  // a request has given up its place; not after its Admission's end
};

// Loop thread only. Made and kept by the Dispatcher until it has ended. It holds what a resume
// needs (prompt ids, parameters, seed, emitted ids) to its end.
//
// Where it can be, and what moves it on:
//   kQueued    waits at admission, for a place or for a ready replica   → Promote
//   kEncoding  texts are at the tokenizer                               → its answer
//   kRunning   submitted: events come from the worker, text from the tokenizer
//   kEnded     the sink has been told
// Cancel, the deadline and errors end it from anywhere. If the replica is lost before the first
// event came, it goes back to kQueued and is sent elsewhere; after that it ends with UNAVAILABLE.
class Generation : private WorkerEventHandler, private Sample::Owner {
 public:
  // `id` ascends in arrival and is the key at workers. `sink` lives until OnEnd or Detach;
  // `on_ended` is called last.
  Generation(uint64_t id, ValidatedRequest request, OutputSink* sink, Admission* admission,
             const GenerationContext& context, std::function<void()> on_ended);
  ~Generation() override;

  // Goes to admission, where it stays until it has ended and the sink has let go of its place. The
  // sink may have been told of a refusal when this returns.
  void Admit();
  // Admission has a place in flight for it.
  void Promote();
  // Ends it with `status` (CANCELLED: the client's wish), wherever it is. No effect once ended.
  void Cancel(const absl::Status& status) { End(status); }
  // Forgets the sink, whose front door is going away.
  void Detach() { sink_ = nullptr; }

  uint64_t id() const { return id_; }
  bool ended() const { return phase_ == Phase::kEnded; }
  bool queued() const { return phase_ == Phase::kQueued; }
  const std::string& model() const { return request_.model().name; }

 private:
  enum class Phase : uint8_t { kNew, kQueued, kEncoding, kRunning, kEnded };

  void Encode();
  void OnEncoded(absl::StatusOr<v1::EncodeResponse> response);
  void DecodeEcho();
  void Route();
  void Submit(WorkerSession* session);
  void StartSamples();
  void OnWorkerEvent(const v1::WorkerTokenEvent& event) override;
  void OnWorkerLost(const absl::Status& why) override;
  void OnSnapshot(const v1::WorkerTokenEvent& event);
  void ShowBeams();
  bool OnSampleChunk(OutputChunk chunk) override;
  void OnSampleEnded(SampleEnd end) override;
  void OnSampleFailed(const absl::Status& status) override;
  bool CanReroute() const;
  void ReturnToQueue();
  void ObserveToken();
  void End(const absl::Status& status);
  void EndSamples(const absl::Status& status);
  InflightPlace HoldPlace() const;
  void LogEnd(const absl::Status& status) const;
  TokenizerClient::CallOptions MakeCallOptions() const;
  int32_t generated_tokens() const;

  // A request is sent to so many replicas before it is given up: it may be what kills them.
  static constexpr uint32_t kMaxAttempts = 2;

  const uint64_t id_;
  const ValidatedRequest request_;
  OutputSink* sink_;
  Admission* const admission_;
  const GenerationContext context_;
  std::function<void()> on_ended_;
  Phase phase_ = Phase::kNew;
  EventLoop::TimerId deadline_timer_;
  EventLoop::TimerId queue_timer_;
  std::shared_ptr<TokenizerClient::Call> tokenizer_call_;
  std::optional<EncodedPrompt> prompt_;
  std::string echo_;
  WorkerSession* session_ = nullptr;  // where it was submitted; nullptr: nowhere, or lost
  std::string replica_;               // its address, for logs
  uint32_t attempt_ = 0;              // on every event; others are dropped
  uint32_t num_submits_ = 0;
  bool has_events_ = false;
  std::vector<std::unique_ptr<Sample>> samples_;
  std::vector<BeamState> beams_;  // at the last look, without texts
  std::optional<BeamTexts> beam_texts_;
  size_t num_ended_samples_ = 0;
  EndReason last_reason_ = EndReason::kError;
  std::chrono::steady_clock::time_point first_token_;
  std::vector<std::chrono::steady_clock::time_point> last_token_;  // of each sample
};

}  // namespace caravan
