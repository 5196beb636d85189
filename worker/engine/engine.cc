#include "worker/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"
#include "worker/engine/mailbox.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/sequence.h"

namespace caravan {
namespace {

// How long the loop is deaf to its mailbox while it waits for the next epoch.
constexpr absl::Duration kRecoverSlice = absl::Milliseconds(50);

#ifdef NDEBUG
constexpr bool kDebugBuild = false;
#else
constexpr bool kDebugBuild = true;
#endif

class Stopwatch {
 public:
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

SchedulerOptions SchedulerOptionsOf(const EngineOptions& options) {
  return {.max_batch_tokens = options.max_batch_tokens,
          .max_prefill_chunk_tokens = options.max_prefill_chunk_tokens,
          .max_running_sequences = options.max_running_sequences,
          .step_time_target_ms = options.step_time_target_ms,
          .enable_prefix_cache = options.enable_prefix_cache};
}

// `token` of the output, from 1, at `position` of prompt and output, from 0.
absl::Status NonFiniteLogitsError(int32_t token, int32_t position, const std::string& dtype) {
  const char* const remedy = dtype == "float16"
                                 ? "; check the model's files, or try --dtype=bfloat16 or float32"
                                 : "; check the model's files";
  return absl::InternalError(absl::StrCat("the model's logits are not numbers at token ", token,
                                          " (position ", position,
                                          "): damaged weights, or an overflow in ", dtype, remedy));
}

}  // namespace

// Everything below but Submit's checks belongs to the engine's thread; what others touch is in the
// Mailbox.
class Engine::Impl {
 public:
  Impl(const EngineOptions& options, ModelRunner* runner, EventSink sink,
       std::function<absl::Time()> now);

  absl::Status Submit(Request request);
  bool Turn();
  void Loop();
  void Shut(const absl::Status& reason, const absl::Status& fatal);

  Mailbox& mailbox() { return mailbox_; }
  std::thread& thread() { return thread_; }

 private:
  struct BeamRun {
    BeamSearch search;
    BeamGroup group;
    int32_t cached_tokens = 0;
    std::vector<std::vector<int32_t>> shown = {};  // of each beam, at the last look
  };
  struct ActiveRequest {
    std::vector<SequencePtr> samples;
    std::unique_ptr<BeamRun> beams;  // then it has no samples
    int32_t unfinished = 0;
    bool begun = false;  // one of its sequences had a slot
  };
  struct StepInFlight {
    PlannedStep step;
    StepTiming timing;
  };

  absl::Status CheckBeams(const Request& request) const;
  void TakeMail();
  SequencePtr MakeSequence(const std::shared_ptr<const Request>& request, absl::Time arrival,
                           int32_t sample_index) const;
  void Begin(const std::shared_ptr<const Request>& request);
  void ExpireDeadlines();
  bool SimpleStep();
  bool PipelinedStep();
  bool SubmitNextStep();
  void CollectOldestStep();
  void Apply(const StepInFlight& collected, StepResult result);
  void FailOverLogits(const Sequence& sequence);
  void ApplyToken(const SequencePtr& sequence, EmittedToken token);
  void ApplyCandidates(const SequencePtr& sequence, BeamCandidates candidates);
  void ShowBeams(const Request& request, BeamRun& run);
  TokenEvent EventOf(Sequence& sequence) const;
  void FinishSequence(const SequencePtr& sequence, TokenEvent event);
  void FinishBeams(const Request& request, BeamRun& run, FinishReason reason,
                   const absl::Status& status);
  void ForgetRequest(const Request& request, FinishReason reason);
  void FinishRequest(RequestKey key, FinishReason reason, const absl::Status& status);
  void LoseStep(const absl::Status& error);
  void Recover();
  void Deliver();

  const EngineOptions options_;
  ModelRunner* const runner_;
  const RunnerLimits limits_;
  const EventSink sink_;
  const std::function<absl::Time()> now_;
  const int32_t depth_;
  Mailbox mailbox_;
  std::thread thread_;

  Scheduler scheduler_;
  absl::flat_hash_map<RequestKey, ActiveRequest> requests_;
  std::set<std::pair<absl::Time, RequestKey>> deadlines_;  // of those that have one
  std::deque<StepInFlight> in_flight_;
  std::vector<TokenEvent> events_;         // of this turn
  std::vector<RequestKey> released_keys_;  // in this turn
  EngineStats stats_;
  uint64_t arrivals_ = 0;
  bool recovering_ = false;
  bool failed_ = false;
};

Engine::Impl::Impl(const EngineOptions& options, ModelRunner* runner, EventSink sink,
                   std::function<absl::Time()> now)
    : options_(options),
      runner_(runner),
      limits_(runner->limits()),
      sink_(std::move(sink)),
      now_(std::move(now)),
      depth_(std::clamp(options.pipeline_depth, 1, std::max(1, limits_.max_steps_in_flight))),
      mailbox_(options.max_waiting_requests),
      scheduler_(SchedulerOptionsOf(options), limits_) {
  Deliver();  // the first statistics
}

absl::Status Engine::Impl::Submit(Request request) {
  const int64_t length = static_cast<int64_t>(request.prompt.size());
  if (length == 0) return absl::InvalidArgumentError("the prompt is empty");
  if (length + 1 > limits_.max_context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", length, " tokens, the model takes at most ",
                     limits_.max_context_tokens - 1, " and one to generate"));
  }
  const int64_t blocks = (length + limits_.block_tokens - 1) / limits_.block_tokens;
  if (blocks > limits_.num_blocks) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", length, " tokens and needs ",
                                                   blocks, " KV blocks, the worker has ",
                                                   limits_.num_blocks));
  }
  RETURN_IF_ERROR(CheckBeams(request));
  return mailbox_.Submit(std::move(request));
}

absl::Status Engine::Impl::CheckBeams(const Request& request) const {
  const int32_t width = request.beams.width;
  if (width == 1) return absl::OkStatus();
  const int32_t slots = std::min(options_.max_running_sequences, limits_.max_slots);
  if (width > slots) {
    return absl::InvalidArgumentError(absl::StrCat(
        "beam_width is ", width, ", the worker runs at most ", slots, " sequences at once"));
  }
  const auto length = static_cast<int32_t>(request.prompt.size());
  if (length < MaxBeamLength(limits_, length, width)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("beam_width is ", width, " and the prompt has ", length,
                   " tokens: so many beams do not fit into the worker's ", limits_.num_blocks,
                   " KV blocks of ", limits_.block_tokens, " tokens"));
}

void Engine::Impl::Loop() {
  while (!failed_ && !mailbox_.stopping()) {
    if (!Turn()) mailbox_.WaitForNews();
  }
  if (!failed_) Shut(absl::UnavailableError("the worker stops; retry"), absl::OkStatus());
}

bool Engine::Impl::Turn() {
  if (failed_) return false;
  TakeMail();
  ExpireDeadlines();
  if (!recovering_ && in_flight_.empty()) {
    if (const absl::Status status = runner_->status(); !status.ok()) LoseStep(status);
  }
  bool worked = true;
  if (recovering_) {
    Recover();
  } else {
    worked = options_.pipelined ? PipelinedStep() : SimpleStep();
  }
  if (options_.check_invariants || kDebugBuild) scheduler_.CheckInvariants();
  worked = worked || !events_.empty();
  Deliver();
  return worked;
}

void Engine::Impl::TakeMail() {
  for (Mailbox::Command& command : mailbox_.Take()) {
    if (auto* request = std::get_if<std::shared_ptr<const Request>>(&command)) {
      Begin(*request);
    } else {
      FinishRequest(std::get<RequestKey>(command), FinishReason::kCancelled, absl::OkStatus());
    }
  }
}

SequencePtr Engine::Impl::MakeSequence(const std::shared_ptr<const Request>& request,
                                       absl::Time arrival, int32_t sample_index) const {
  const int32_t prompt_tokens = static_cast<int32_t>(request->prompt.size()) - request->num_resumed;
  const bool shareable = prompt_tokens <= limits_.max_shareable_prompt_tokens;
  const SequenceRank rank = RankOf(*request, arrival, arrivals_, sample_index);
  auto sequence = std::make_shared<Sequence>(request, rank, limits_.block_tokens);
  sequence->root = RootHash(request->cache_salt, shareable ? 0 : prompt_tokens);
  return sequence;
}

void Engine::Impl::Begin(const std::shared_ptr<const Request>& request) {
  const RequestKey key = request->key;
  ActiveRequest& active = requests_[key];
  const absl::Time arrival = now_();
  SequencePtr first = MakeSequence(request, arrival, 0);
  if (request->beams.width > 1) {
    const auto length = static_cast<int32_t>(request->prompt.size());
    const int32_t max_length = MaxBeamLength(limits_, length, request->beams.width);
    active.beams = std::make_unique<BeamRun>(BeamRun{BeamSearch(request, max_length), {}});
    first->group = &active.beams->group;
    first->group->width = request->beams.width;
    first->group->live.push_back(first);
  }
  for (int32_t i = 0; i < request->num_samples && active.beams == nullptr; ++i) {
    SequencePtr sequence = i == 0 ? first : MakeSequence(request, arrival, i);
    if (i > 0) {
      sequence->state = SequenceState::kForking;
      sequence->parent = active.samples[0];
      active.samples[0]->forks.push_back(sequence);
    }
    active.samples.push_back(std::move(sequence));
  }
  ++arrivals_;
  ++stats_.waiting_requests;
  active.unfinished = request->num_samples;
  if (request->deadline != absl::InfiniteFuture()) deadlines_.insert({request->deadline, key});
  scheduler_.Enqueue(std::move(first));
  // An earlier attempt generated everything; only its end was lost.
  if (request->num_resumed >= request->sampling.max_tokens) {
    FinishRequest(key, FinishReason::kLength, absl::OkStatus());
  }
}

void Engine::Impl::ExpireDeadlines() {
  if (deadlines_.empty()) return;
  const absl::Time now = now_();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    FinishRequest(deadlines_.begin()->second, FinishReason::kDeadline,
                  absl::DeadlineExceededError("the request's deadline has passed"));
  }
}

// The reference: nothing is in flight while a step is planned.
bool Engine::Impl::SimpleStep() {
  if (SubmitNextStep()) CollectOldestStep();
  return recovering_ || !requests_.empty();
}

// Step n + 1 is planned and submitted while step n runs.
bool Engine::Impl::PipelinedStep() {
  while (static_cast<int32_t>(in_flight_.size()) < depth_ && SubmitNextStep()) {
  }
  if (!in_flight_.empty()) CollectOldestStep();
  return recovering_ || !requests_.empty() || !in_flight_.empty();
}

bool Engine::Impl::SubmitNextStep() {
  if (failed_ || recovering_) return false;
  Stopwatch watch;
  PlannedStep step = scheduler_.Plan();
  if (step.plan.work.empty()) {
    CARAVAN_CHECK(!in_flight_.empty() || requests_.empty(), "requests=", requests_.size());
    return false;
  }
  for (const SequencePtr& sequence : step.admitted) {
    if (!std::exchange(requests_[sequence->request->key].begun, true)) --stats_.waiting_requests;
  }
  stats_.prompt_tokens += step.prompt_tokens;
  stats_.cached_tokens += step.cached_tokens;
  StepTiming timing;
  timing.plan_seconds = watch.Lap();
  timing.predicted_seconds = scheduler_.cost_model().Predict(step.load);
  timing.tokens = static_cast<int32_t>(step.load.tokens);
  timing.sequences = static_cast<int32_t>(step.plan.work.size());
  stats_.predicted_step_seconds = timing.predicted_seconds;
  const absl::Status submitted = runner_->Submit(step.plan);
  timing.submit_seconds = watch.Lap();
  if (!submitted.ok()) {
    LoseStep(submitted);
    return false;
  }
  in_flight_.push_back({std::move(step), timing});
  return true;
}

void Engine::Impl::CollectOldestStep() {
  Stopwatch watch;
  absl::StatusOr<StepResult> result = runner_->Collect();
  if (!result.ok()) return LoseStep(result.status());
  StepInFlight collected = std::move(in_flight_.front());
  in_flight_.pop_front();
  collected.timing.collect_seconds = watch.Lap();
  collected.timing.run_seconds = result->run_seconds;
  ++stats_.steps;
  stats_.last_step_seconds = result->run_seconds;
  scheduler_.cost_model().Observe(collected.step.load, result->run_seconds);
  Apply(collected, *std::move(result));
  if (options_.on_step) options_.on_step(collected.timing);
}

void Engine::Impl::Apply(const StepInFlight& collected, StepResult result) {
  const PlannedStep& step = collected.step;
  CARAVAN_CHECK(result.step == step.plan.step, "planned=", step.plan.step, " ran=", result.step);
  CARAVAN_CHECK(result.slots.size() == step.drawn.size(), "planned=", step.drawn.size(),
                " drawn=", result.slots.size());
  for (size_t i = 0; i < step.drawn.size(); ++i) {
    const SequencePtr& sequence = step.drawn[i];
    // Surplus: the sequence finished, or was preempted and will draw this token again.
    if (sequence->state == SequenceState::kFinished) continue;
    if (sequence->preemptions != step.preemptions[i]) continue;
    CARAVAN_CHECK(result.slots[i].slot == sequence->slot, "slot=", sequence->slot);
    CARAVAN_CHECK(result.slots[i].tokens.size() == 1, "tokens=", result.slots[i].tokens.size());
    EmittedToken& token = result.slots[i].tokens[0];
    if (!result.slots[i].finite) {
      FailOverLogits(*sequence);
    } else if (sequence->group != nullptr) {
      ApplyCandidates(sequence, std::move(token.top_logprobs));
    } else {
      ApplyToken(sequence, std::move(token));
    }
  }
}

// The model's fault, so that it is told as an error, and never answered as if it were a token.
void Engine::Impl::FailOverLogits(const Sequence& sequence) {
  const std::shared_ptr<const Request> request = sequence.request;
  const absl::Status status =
      NonFiniteLogitsError(sequence.emitted() + 1, sequence.known(), limits_.dtype);
  if (stats_.nonfinite_logits++ == 0) {
    LogError("logits are no numbers", {{"request", request->request_id},
                                       {"status", status.ToString()},
                                       {"note", "later ones are counted, not logged"}});
  }
  FinishRequest(request->key, FinishReason::kError, status);
}

void Engine::Impl::ApplyToken(const SequencePtr& sequence, EmittedToken token) {
  TokenEvent event = EventOf(*sequence);
  --sequence->in_flight;
  event.finish = sequence->Append(token.token_id, scheduler_.max_length());
  event.tokens.push_back(std::move(token));
  ++stats_.generated_tokens;
  scheduler_.Publish(*sequence);
  if (event.finish == FinishReason::kNone) {
    events_.push_back(std::move(event));
  } else {
    FinishSequence(sequence, std::move(event));
  }
}

// The last beam's candidates of a step move the search on.
void Engine::Impl::ApplyCandidates(const SequencePtr& sequence, BeamCandidates candidates) {
  --sequence->in_flight;
  sequence->candidates = std::move(candidates);
  BeamRun& run = *requests_[sequence->request->key].beams;
  std::vector<BeamCandidates> of_live;
  for (const SequencePtr& beam : run.group.live) {
    if (!beam->candidates) return;
    of_live.push_back(*beam->candidates);
  }
  run.cached_tokens = sequence->cached_tokens;
  stats_.generated_tokens += static_cast<uint64_t>(run.search.num_live());
  const std::vector<BeamChoice> choices = run.search.Advance(of_live);
  if (run.search.ended()) {
    FinishBeams(*sequence->request, run, FinishReason::kNone, absl::OkStatus());
  } else {
    scheduler_.AdvanceBeams(run.group, choices);
    ShowBeams(*sequence->request, run);
  }
}

void Engine::Impl::ShowBeams(const Request& request, BeamRun& run) {
  const BeamParams& params = request.beams;
  if (params.snapshot_interval == 0) return;
  if ((params.snapshot_offset + run.search.num_steps()) % params.snapshot_interval != 0) return;
  std::vector<BeamResult> beams = run.search.Results();
  run.shown.resize(beams.size());
  for (size_t i = 0; i < beams.size(); ++i) {
    std::vector<EmittedToken>& tokens = beams[i].tokens;
    std::vector<int32_t>& shown = run.shown[i];
    size_t same = 0;
    while (same < std::min(shown.size(), tokens.size()) && shown[same] == tokens[same].token_id) {
      ++same;
    }
    shown.resize(same);
    for (size_t k = same; k < tokens.size(); ++k) shown.push_back(tokens[k].token_id);
    TokenEvent event;
    event.key = request.key;
    event.sample_index = static_cast<int32_t>(i);
    event.first_position = static_cast<int32_t>(same);
    event.tokens.assign(tokens.begin() + static_cast<ptrdiff_t>(same), tokens.end());
    event.cumulative_logprob = beams[i].cumulative_logprob;
    event.snapshot = true;
    events_.push_back(std::move(event));
  }
}

TokenEvent Engine::Impl::EventOf(Sequence& sequence) const {
  TokenEvent event;
  event.key = sequence.request->key;
  event.sample_index = sequence.rank.sample_index;
  event.first_position = sequence.emitted();
  if (!std::exchange(sequence.announced, true)) event.cached_prompt_tokens = sequence.cached_tokens;
  return event;
}

void Engine::Impl::FinishSequence(const SequencePtr& sequence, TokenEvent event) {
  scheduler_.Finish(sequence);
  if (--requests_[event.key].unfinished == 0) ForgetRequest(*sequence->request, event.finish);
  events_.push_back(std::move(event));
}

// All beams end at once: with what the search found, or for `reason` where that is not kNone.
void Engine::Impl::FinishBeams(const Request& request, BeamRun& run, FinishReason reason,
                               const absl::Status& status) {
  std::vector<BeamResult> results(static_cast<size_t>(request.beams.width));
  if (reason == FinishReason::kNone) results = run.search.Results();
  for (size_t i = 0; i < results.size(); ++i) {
    TokenEvent event;
    event.key = request.key;
    event.sample_index = static_cast<int32_t>(i);
    event.tokens = std::move(results[i].tokens);
    event.finish = reason == FinishReason::kNone ? results[i].finish : reason;
    event.status = status;
    event.cached_prompt_tokens = run.cached_tokens;
    event.cumulative_logprob = results[i].cumulative_logprob;
    events_.push_back(std::move(event));
  }
  scheduler_.FinishBeams(run.group);
  ForgetRequest(request, reason);
}

void Engine::Impl::ForgetRequest(const Request& request, FinishReason reason) {
  const auto found = requests_.find(request.key);
  ++(reason == FinishReason::kCancelled ? stats_.cancelled : stats_.finished);
  deadlines_.erase({request.deadline, request.key});
  stats_.waiting_requests -= !found->second.begun;
  released_keys_.push_back(request.key);
  requests_.erase(found);
}

void Engine::Impl::FinishRequest(RequestKey key, FinishReason reason, const absl::Status& status) {
  const auto found = requests_.find(key);
  if (found == requests_.end()) return;  // finished while the cancellation was under way
  if (BeamRun* run = found->second.beams.get(); run != nullptr) {
    // The sequence keeps the request while the run goes.
    const SequencePtr first = run->group.live[0];
    return FinishBeams(*first->request, *run, reason, status);
  }
  const std::vector<SequencePtr> samples = found->second.samples;
  for (const SequencePtr& sequence : samples) {
    if (sequence->state == SequenceState::kFinished) continue;
    TokenEvent event = EventOf(*sequence);
    event.finish = reason;
    event.status = status;
    FinishSequence(sequence, std::move(event));
  }
}

// Everything in flight is lost, and with it the KV of all sequences. Requests that did not begin
// stay in the queue.
void Engine::Impl::LoseStep(const absl::Status& error) {
  in_flight_.clear();
  if (!absl::IsUnavailable(error)) {
    LogError("engine failed", {{"status", error.ToString()}});
    return Shut(error, error);
  }
  const auto status = absl::UnavailableError(
      absl::StrCat("a rank of the replica was lost: ", error.message(), "; retry"));
  std::vector<RequestKey> begun;
  for (const auto& [key, active] : requests_) {
    if (active.begun) begun.push_back(key);
  }
  std::sort(begun.begin(), begun.end());
  for (RequestKey key : begun) FinishRequest(key, FinishReason::kError, status);
  scheduler_.Reset();
  recovering_ = true;
  LogWarning("lost rank", {{"status", error.ToString()},
                           {"failed_requests", begun.size()},
                           {"waiting_requests", requests_.size()}});
}

void Engine::Impl::Recover() {
  const absl::Status status = runner_->Recover(kRecoverSlice);
  if (status.ok()) {
    recovering_ = false;
    LogInfo("recovered", {{"waiting_requests", requests_.size()}});
  } else if (!absl::IsDeadlineExceeded(status)) {
    LogError("engine failed", {{"status", status.ToString()}});
    Shut(status, status);
  }
}

// The last turn: all requests end with `reason`, the mailbox takes no more.
void Engine::Impl::Shut(const absl::Status& reason, const absl::Status& fatal) {
  if (std::exchange(failed_, true)) return;
  for (Mailbox::Command& command : mailbox_.Close(fatal)) {
    if (auto* request = std::get_if<std::shared_ptr<const Request>>(&command)) {
      Begin(*request);
    }
  }
  std::vector<RequestKey> keys;
  for (const auto& [key, active] : requests_) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  for (RequestKey key : keys) FinishRequest(key, FinishReason::kError, reason);
  // Leaves the runner without steps in flight; their results have no reader.
  while (!in_flight_.empty() && runner_->Collect().ok()) in_flight_.pop_front();
  in_flight_.clear();
  Deliver();
}

void Engine::Impl::Deliver() {
  const BlockPool& pool = scheduler_.pool();
  stats_.running_sequences = scheduler_.num_running();
  stats_.free_blocks = pool.free_blocks();
  stats_.cached_blocks = pool.cached_blocks();
  stats_.used_blocks = pool.used_blocks();
  stats_.total_blocks = pool.total_blocks();
  stats_.preemptions = scheduler_.preemptions();
  stats_.recovering = recovering_;
  mailbox_.BeginDelivery(stats_, std::exchange(released_keys_, {}));
  std::vector<TokenEvent> events = std::exchange(events_, {});
  if (!events.empty()) sink_(std::move(events));
  mailbox_.EndDelivery();
}

Engine::Engine(const EngineOptions& options, ModelRunner* runner, EventSink sink,
               std::function<absl::Time()> now)
    : impl_(std::make_unique<Impl>(options, runner, std::move(sink), std::move(now))) {}

Engine::~Engine() { Stop(); }

absl::Status Engine::Submit(Request request) { return impl_->Submit(std::move(request)); }

void Engine::Cancel(RequestKey key) { impl_->mailbox().Cancel(key); }

void Engine::Wake() { impl_->mailbox().Wake(); }

EngineStats Engine::Stats() const { return impl_->mailbox().Stats(); }

void Engine::Start() {
  CARAVAN_CHECK(!impl_->thread().joinable());
  impl_->thread() = std::thread([this] { impl_->Loop(); });
}

bool Engine::Drain(absl::Duration timeout) {
  impl_->mailbox().BeginDrain();
  return impl_->mailbox().WaitUntilEmpty(timeout);
}

void Engine::Stop() {
  impl_->mailbox().Stop();
  if (impl_->thread().joinable()) {
    impl_->thread().join();
  } else {
    impl_->Loop();  // never started: ends at once
  }
}

absl::Status Engine::status() const { return impl_->mailbox().status(); }

bool Engine::StepOnce() { return impl_->Turn(); }

}  // namespace caravan
