#include "gateway/generation/generation.h"

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

using Clock = EventLoop::Clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Generation::Generation(uint64_t id, ValidatedRequest request, OutputSink* sink,
                       Admission* admission, const GenerationContext& context,
                       std::function<void()> on_ended)
    : id_(id),
      request_(std::move(request)),
      sink_(sink),
      admission_(admission),
      context_(context),
      on_ended_(std::move(on_ended)) {}

Generation::~Generation() { CARAVAN_CHECK(ended(), "a request was forgotten before its end"); }

void Generation::Admit() {
  const RequestSpec& spec = request_.spec();
  context_.metrics->requests_started.Increment();
  const auto now = Clock::now();
  if (spec.deadline <= now) {
    return End(absl::DeadlineExceededError("the request's deadline had passed on arrival"));
  }
  const absl::StatusOr<Admission::Place> place =
      admission_->Admit({id_, spec.client, spec.priority, spec.deadline}, now);
  if (!place.ok()) {
    context_.metrics->refusals.Increment();
    return End(place.status());
  }
  if (spec.deadline != Clock::time_point::max()) {
    deadline_timer_ = context_.loop->RunAt(spec.deadline, [this] {
      End(absl::DeadlineExceededError(
          absl::StrCat("the request's deadline passed after ", generated_tokens(), " tokens")));
    });
  }
  phase_ = Phase::kQueued;
  if (*place == Admission::Place::kInflight) return Promote();
  queue_timer_ = context_.loop->RunAfter(context_.queue_timeout, [this] {
    const bool ready = context_.replicas->HasReady(request_.model().name);
    const std::string waited = absl::StrCat(context_.queue_timeout.count(), " ms");
    End(ready ? absl::ResourceExhaustedError(absl::StrCat(
                    "the request waited ", waited, " for its turn, as long as it may; retry later"))
              : absl::UnavailableError(absl::StrCat("no replica of model '", request_.model().name,
                                                    "' became ready within ", waited)));
  });
}

void Generation::Promote() {
  if (phase_ != Phase::kQueued) return;
  context_.loop->CancelTimer(&queue_timer_);
  phase_ = Phase::kEncoding;
  if (prompt_.has_value()) {
    Route();
  } else {
    Encode();
  }
}

TokenizerClient::CallOptions Generation::MakeCallOptions() const {
  const RequestSpec& spec = request_.spec();
  return {spec.request_id, spec.traceparent, spec.deadline};
}

void Generation::Encode() {
  const std::shared_ptr<const Vocabulary>& vocabulary = context_.tokenizer->vocabulary();
  if (vocabulary == nullptr) {
    return End(absl::UnavailableError("no tokenizer has been reached yet; retry in a moment"));
  }
  const absl::Status texts = CheckTexts(request_.spec(), context_.tokenizer->bounds());
  if (!texts.ok()) return End(texts);
  v1::EncodeRequest encode = MakeEncodeRequest(request_.spec(), *vocabulary);
  if (encode.inputs().empty()) return OnEncoded(v1::EncodeResponse());
  tokenizer_call_ = context_.tokenizer->Encode(
      MakeCallOptions(), std::move(encode),
      [this](absl::StatusOr<v1::EncodeResponse> response) { OnEncoded(std::move(response)); });
}

void Generation::OnEncoded(absl::StatusOr<v1::EncodeResponse> response) {
  tokenizer_call_ = nullptr;
  if (!response.ok()) return End(response.status());
  absl::StatusOr<EncodedPrompt> prompt = AssemblePrompt(request_, *response);
  if (!prompt.ok()) return End(prompt.status());
  prompt_ = *std::move(prompt);
  if (!request_.spec().output.echo_prompt) return Route();
  if (const std::optional<std::string> text = PromptText(request_.spec()); text.has_value()) {
    echo_ = *text;
    return Route();
  }
  DecodeEcho();
}

void Generation::DecodeEcho() {
  v1::DecodeRequest decode;
  v1::DecodeInput* input = decode.add_inputs();
  input->mutable_token_ids()->Assign(prompt_->token_ids.begin(), prompt_->token_ids.end());
  input->set_keep_special_tokens(request_.spec().output.keep_special_tokens);
  tokenizer_call_ = context_.tokenizer->Decode(
      MakeCallOptions(), std::move(decode), [this](absl::StatusOr<v1::DecodeResponse> response) {
        tokenizer_call_ = nullptr;
        if (!response.ok()) return End(response.status());
        // An incomplete character at the end comes with
        // the token that completes it.
        if (response->texts_size() == 1) Utf8Assembler().Append(response->texts(0), echo_);
        Route();
      });
}

void Generation::Route() {
  WorkerSession* session =
      context_.replicas->Route(request_.model(), prompt_->token_ids, CacheSalt(request_.spec()));
  if (session == nullptr) return ReturnToQueue();
  Submit(session);
}

void Generation::ReturnToQueue() {
  const ModelCommands& commands = context_.replicas->commands();
  if (commands.StateOf(request_.model().name).phase == ModelState::Phase::kUnloaded) {
    return End(commands.CheckLoaded(request_.model().name));
  }
  phase_ = Phase::kQueued;
  queue_timer_ = context_.loop->RunAfter(context_.queue_timeout, [this] {
    End(absl::UnavailableError(absl::StrCat("no replica of model '", request_.model().name,
                                            "' became ready within ",
                                            context_.queue_timeout.count(), " ms")));
  });
  admission_->Requeue(id_, Clock::now());
}

void Generation::Submit(WorkerSession* session) {
  v1::WorkerSubmit submit = MakeWorkerSubmit(request_, *prompt_, *context_.tokenizer->vocabulary());
  submit.set_key(id_);
  submit.set_attempt(attempt_);
  if (request_.spec().deadline != Clock::time_point::max()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        request_.spec().deadline - Clock::now());
    submit.set_timeout_ms(std::max<int64_t>(1, left.count()));
  }
  phase_ = Phase::kRunning;
  session_ = session;
  replica_ = session->address();
  if (++num_submits_ == 1) StartSamples();
  if (phase_ == Phase::kRunning) session->Submit(std::move(submit), this);
}

void Generation::StartSamples() {
  const RequestSpec& spec = request_.spec();
  context_.metrics->queue_seconds.Observe(SecondsSince(spec.arrival));
  context_.metrics->prompt_tokens.Increment(static_cast<double>(prompt_->token_ids.size()));
  for (uint32_t i = 0; i < request_.num_sequences(); ++i) {
    samples_.push_back(std::make_unique<Sample>(static_cast<int>(i), &request_, context_.tokenizer,
                                                static_cast<Sample::Owner*>(this)));
  }
  last_token_.resize(samples_.size());
  if (sink_ != nullptr) {
    sink_->OnStarted({spec.request_id, request_.model().name, request_.seed(),
                      static_cast<int32_t>(prompt_->token_ids.size())});
  }
  for (const auto& sample : samples_) sample->Begin(prompt_->token_ids, echo_);
}

void Generation::OnWorkerEvent(const v1::WorkerTokenEvent& event) {
  if (phase_ != Phase::kRunning || event.attempt() != attempt_ ||
      event.sample_index() >= samples_.size()) {
    context_.metrics->stale_events.Increment();
    return;
  }
  if (event.snapshot()) return OnSnapshot(event);
  const bool refused = event.finish() == v1::WorkerTokenEvent::ERROR &&
                       event.code() == static_cast<int>(absl::StatusCode::kUnavailable) &&
                       event.token_ids().empty();
  if (refused && CanReroute()) {
    session_->Forget(id_);
    return OnWorkerLost(absl::UnavailableError(event.message()));
  }
  has_events_ = true;
  const int num_stale = samples_[event.sample_index()]->OnEvent(event);
  if (num_stale > 0) context_.metrics->stale_events.Increment(num_stale);
}

void Generation::OnSnapshot(const v1::WorkerTokenEvent& event) {
  beams_.resize(samples_.size());
  BeamState& beam = beams_[event.sample_index()];
  const size_t same = event.first_position();
  if (same > beam.token_ids.size()) {
    return End(absl::InternalError(absl::StrCat("the worker skipped tokens of a beam: position ",
                                                same, " came after ", beam.token_ids.size())));
  }
  beam.token_ids.resize(same);
  beam.token_ids.insert(beam.token_ids.end(), event.token_ids().begin(), event.token_ids().end());
  beam.logprobs.resize(std::min(same, beam.logprobs.size()));
  beam.logprobs.insert(beam.logprobs.end(), event.logprobs().begin(), event.logprobs().end());
  beam.cumulative_logprob = event.cumulative_logprob();
  if (event.sample_index() + 1 == beams_.size() && sink_ != nullptr) ShowBeams();
}

void Generation::ShowBeams() {
  BeamLook look;
  look.beams = beams_;
  look.echo = echo_;
  // A beam that has ended is shorter than those that go on.
  for (const BeamState& beam : beams_) {
    look.steps = std::max(look.steps, static_cast<int32_t>(beam.token_ids.size()));
  }
  if (!request_.spec().output.no_text) {
    if (!beam_texts_.has_value()) {
      beam_texts_.emplace(request_.spec(), context_.tokenizer->vocabulary(), prompt_->token_ids);
    }
    if (const absl::Status status = beam_texts_->Decode(&look.beams); !status.ok()) {
      return End(status);
    }
  }
  sink_->OnBeams(std::move(look));
}

bool Generation::CanReroute() const { return !has_events_ && num_submits_ < kMaxAttempts; }

void Generation::OnWorkerLost(const absl::Status& why) {
  session_ = nullptr;
  if (phase_ != Phase::kRunning) return;
  if (CanReroute()) {
    ++attempt_;
    beams_.clear();
    context_.metrics->reroutes.Increment();
    return ReturnToQueue();
  }
  End(absl::UnavailableError(absl::StrCat(why.message(), " after ", generated_tokens(),
                                          " tokens of this request; send it again, or resume it "
                                          "with the ids received and seed ",
                                          request_.seed())));
}

bool Generation::OnSampleChunk(OutputChunk chunk) {
  if (chunk.has_token) {
    context_.metrics->generated_tokens.Increment();
    auto& last = last_token_[chunk.sample_index];
    const auto now = Clock::now();
    if (last != Clock::time_point()) {
      context_.metrics->inter_token_seconds.Observe(
          std::chrono::duration<double>(now - last).count());
    }
    last = now;
    if (first_token_ == Clock::time_point()) {
      first_token_ = now;
      context_.metrics->time_to_first_token_seconds.Observe(SecondsSince(request_.spec().arrival));
    }
  }
  if (sink_ == nullptr) return true;
  if (const absl::Status status = sink_->OnChunk(std::move(chunk)); !status.ok()) End(status);
  return !ended();
}

void Generation::OnSampleEnded(SampleEnd end) {
  last_reason_ = end.reason;
  context_.metrics->cached_prompt_tokens.Increment(end.cached_prompt_tokens);
  if (sink_ != nullptr) sink_->OnSampleEnd(std::move(end));
  if (++num_ended_samples_ == samples_.size()) End(absl::OkStatus());
}

void Generation::OnSampleFailed(const absl::Status& status) { End(status); }

int32_t Generation::generated_tokens() const {
  int32_t tokens = 0;
  for (const auto& sample : samples_) tokens += sample->generated_tokens();
  return tokens;
}

void Generation::EndSamples(const absl::Status& status) {
  bool worker_is_done = true;
  for (const auto& sample : samples_) {
    worker_is_done = worker_is_done && sample->worker_finished();
    if (sample->ended()) continue;
    sample->Abort();
    SampleEnd end;
    end.sample_index = static_cast<int>(&sample - samples_.data());
    end.reason = absl::IsCancelled(status) ? EndReason::kCancelled : EndReason::kError;
    end.status = status;
    end.generated_tokens = sample->generated_tokens();
    end.cached_prompt_tokens = sample->cached_prompt_tokens();
    if (sink_ != nullptr) sink_->OnSampleEnd(std::move(end));
  }
  if (session_ == nullptr) return;
  if (worker_is_done) {
    session_->Forget(id_);
  } else {
    session_->Cancel(id_);
  }
  session_ = nullptr;
}

void Generation::End(const absl::Status& status) {
  if (ended()) return;
  phase_ = Phase::kEnded;
  context_.loop->CancelTimer(&deadline_timer_);
  context_.loop->CancelTimer(&queue_timer_);
  if (tokenizer_call_ != nullptr) tokenizer_call_->Cancel();
  tokenizer_call_ = nullptr;
  EndSamples(status);
  if (!status.ok()) {
    last_reason_ = absl::IsCancelled(status) ? EndReason::kCancelled : EndReason::kError;
    context_.metrics->error(status.code()).Increment();
  }
  context_.metrics->finished(last_reason_).Increment();
  context_.metrics->request_seconds.Observe(SecondsSince(request_.spec().arrival));
  LogEnd(status);
  if (sink_ == nullptr) {
    admission_->Leave(id_, Clock::now());
  } else {
    std::exchange(sink_, nullptr)->OnEnd(status, HoldPlace());
  }
  on_ended_();
}

// It is given up in a task of its own: whoever drops it may be in the middle of something that the
// next request, which gets the place, would disturb.
InflightPlace Generation::HoldPlace() const {
  const auto leave = [id = id_, on_left = context_.on_left,
                      admission = admission_->weak_from_this()] {
    const std::shared_ptr<Admission> alive = admission.lock();
    if (alive == nullptr) return;
    alive->Leave(id, Clock::now());
    on_left();
  };
  return {nullptr, [loop = context_.loop, leave](const void*) { loop->Post(leave); }};
}

void Generation::LogEnd(const absl::Status& status) const {
  const RequestSpec& spec = request_.spec();
  const auto milliseconds = [&](Clock::time_point until) {
    return std::chrono::duration<double, std::milli>(until - spec.arrival).count();
  };
  const double ttft = first_token_ == Clock::time_point() ? -1 : milliseconds(first_token_);
  LogInfo("finished", {{"request", spec.request_id},
                       {"traceparent", spec.traceparent},
                       {"model", request_.model().name},
                       {"replica", replica_},
                       {"prompt_tokens", prompt_.has_value() ? prompt_->token_ids.size() : 0},
                       {"tokens", generated_tokens()},
                       {"reason", NameOf(last_reason_)},
                       {"ttft_ms", ttft},
                       {"total_ms", milliseconds(Clock::now())},
                       {"message", std::string(status.message())}});
}

}  // namespace caravan
