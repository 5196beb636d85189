#include "gateway/triton/generation_inference.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/protocol/tensor_names.h"

namespace caravan {
namespace {

constexpr uint32_t kLongestSnapshotInterval = 1 << 20;    // beyond any context
constexpr int64_t kMaxOutputElements = int64_t{1} << 25;  // of output_ids
// Of looks at beams that a slow client has not taken: then the oldest go.
constexpr size_t kMaxKeptBeamBytes = 4 << 20;

}  // namespace

GenerationInference::GenerationInference(const InferContext* context, InferCall call,
                                         GenerationParameters parameters, InferSink* sink)
    : InferenceBase(context, std::move(call), sink),
      parameters_(std::move(parameters)),
      output_(parameters_.beam_width, {parameters_.exclude_input, parameters_.delta}),
      beam_partials_(parameters_.rows.size(), parameters_.beam_width),
      prompt_texts_(parameters_.rows.size()),
      beam_output_(parameters_.beam_width, {parameters_.exclude_input, /*delta=*/false}),
      encoded_(request().request().arrival),
      started_(encoded_),
      last_token_(encoded_) {
  for (const TensorSpec& spec : InferenceBase::request().model().outputs) {
    const bool is_log_prob = spec.name == "cum_log_probs" || spec.name == "output_log_probs";
    if (!InferenceBase::request().Wants(spec.name)) continue;
    if (parameters_.return_log_probs || !is_log_prob) outputs_.push_back(spec.name);
  }
}

GenerationInference::~GenerationInference() {
  if (ended()) return;
  GenerationInference::CountFailedPart(absl::CancelledError("the client left"));
  GenerationInference::Stop();
}

void GenerationInference::Start() {
  if (const absl::Status status = TryStart(); !status.ok()) Fail(status);
}

absl::Status GenerationInference::TryStart() {
  Stamp("REQUEST_START");
  Stamp("QUEUE_START");
  if (is_text()) return StartFromTexts();
  ASSIGN_OR_RETURN(std::vector<std::vector<int32_t>> prompts, ReadTokenIds());
  return Begin(std::move(prompts));
}

absl::Status GenerationInference::StartFromTexts() {
  encoding_ = true;
  const std::string name = TensorNames(request()).prompt;
  const CheckedInput& input = *request().Find(name);
  const auto width = static_cast<size_t>(input.shape[1]);
  const std::shared_ptr<const Vocabulary>& vocabulary = context().dispatcher->vocabulary();
  if (vocabulary == nullptr) {
    return absl::UnavailableError("no tokenizer has been reached yet; retry in a moment");
  }
  const std::vector<std::string_view> texts = UnpackBytes(input.data);
  v1::EncodeRequest encode;
  for (size_t row = 0; row < parameters_.rows.size(); ++row) {
    if (width == 0) {
      return absl::InvalidArgumentError(absl::StrCat(name, " of row ", row, " has no element"));
    }
    const std::string_view text = texts[row * width];
    RETURN_IF_ERROR(CheckText(absl::StrCat(name, " of row ", row), text,
                              context().dispatcher->tokenizer().bounds()));
    v1::EncodeInput* added = encode.add_inputs();
    added->set_text(std::string(text));
    added->set_add_bos(vocabulary->adds_bos);
  }
  const InferRequest& call = request().request();
  tokenizer_call_ = context().dispatcher->tokenizer().Encode(
      {call.request_id, call.traceparent, call.deadline}, std::move(encode),
      [this](absl::StatusOr<v1::EncodeResponse> response) { OnEncoded(std::move(response)); });
  return absl::OkStatus();
}

void GenerationInference::OnEncoded(absl::StatusOr<v1::EncodeResponse> response) {
  tokenizer_call_ = nullptr;
  if (!response.ok()) return Fail(response.status());
  encoding_ = false;
  std::vector<std::vector<int32_t>> prompts;
  for (const v1::EncodeOutput& output : response->outputs()) {
    prompts.emplace_back(output.token_ids().begin(), output.token_ids().end());
  }
  if (prompts.size() != parameters_.rows.size()) {
    return Fail(absl::InternalError("the tokenizer did not answer for every row"));
  }
  encoded_ = Clock::now();
  if (const absl::Status status = Begin(std::move(prompts)); !status.ok()) Fail(status);
}

absl::StatusOr<std::vector<std::vector<int32_t>>> GenerationInference::ReadTokenIds() const {
  const CheckedInput& ids = *request().Find("input_ids");
  const auto width = static_cast<size_t>(ids.shape[1]);
  std::vector<std::vector<int32_t>> prompts;
  for (size_t row = 0; row < parameters_.rows.size(); ++row) {
    const uint32_t length = *request().Scalar<uint32_t>("input_lengths", static_cast<int64_t>(row));
    if (length > width) {
      return absl::InvalidArgumentError(absl::StrCat("input_lengths of row ", row, " is ", length,
                                                     "; input_ids has ", width, " columns"));
    }
    std::vector<int32_t> prompt;
    for (size_t i = 0; i < length; ++i) {
      prompt.push_back(ElementAt<int32_t>(ids.data, row * width + i));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

absl::StatusOr<std::vector<int32_t>> GenerationInference::PromptOf(
    size_t row, std::vector<int32_t> prompt) const {
  std::string tensor = TensorNames(request()).prompt;
  if (prompt.empty()) {
    const std::optional<uint32_t> start_id = StartIdOf(parameters_.rows[row]);
    if (!start_id.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor, " of row ", row, " is empty; give a prompt, or a start_id"));
    }
    tensor = "start_id";
    prompt.push_back(static_cast<int32_t>(*start_id));
  }
  const int32_t vocabulary_size = served().vocabulary_size;
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= 0 && prompt[i] < vocabulary_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(tensor, " of row ", row, " has token id ",
                                                   static_cast<uint32_t>(prompt[i]), " at ", i,
                                                   "; it must be in [0, ", vocabulary_size, ")"));
  }
  return prompt;
}

std::optional<uint32_t> GenerationInference::StartIdOf(const RowParameters& row) const {
  if (row.start_id.has_value()) return row.start_id;
  const std::shared_ptr<const Vocabulary>& vocabulary = context().dispatcher->vocabulary();
  if (vocabulary == nullptr || vocabulary->bos_token_id < 0) return std::nullopt;
  return static_cast<uint32_t>(vocabulary->bos_token_id);
}

uint32_t GenerationInference::FillIdOf(const RowParameters& row) const {
  if (row.end_id.has_value()) return *row.end_id;
  const std::vector<int32_t>& of_model = served().eos_token_ids;
  if (!of_model.empty()) return static_cast<uint32_t>(of_model[0]);
  const std::shared_ptr<const Vocabulary>& vocabulary = context().dispatcher->vocabulary();
  const bool known = vocabulary != nullptr && !vocabulary->eos_token_ids.empty();
  return known ? static_cast<uint32_t>(vocabulary->eos_token_ids[0]) : 0;
}

absl::StatusOr<ValidatedRequest> GenerationInference::MakeRow(
    size_t row, const std::vector<int32_t>& prompt) const {
  const InferRequest& call = request().request();
  const RowParameters& parameters = parameters_.rows[row];
  RequestSpec spec;
  spec.request_id = call.request_id;
  if (parameters_.rows.size() > 1) absl::StrAppend(&spec.request_id, "/", row);
  spec.traceparent = call.traceparent;
  spec.client = call.client;
  spec.arrival = call.arrival;
  spec.deadline = call.deadline;
  spec.model = served().name;
  spec.prompt.resize(1);
  spec.prompt[0].kind = PromptPart::Kind::kTokenIds;
  spec.prompt[0].token_ids = prompt;
  spec.sampling = parameters.sampling;
  spec.stopping = parameters.stopping;
  const bool newer = request().uses_newer_names();
  spec.stopping.include_stop = !newer;
  spec.output.keep_special_tokens = !newer;
  spec.output.no_text = !is_text();
  spec.output.echo_prompt = is_text() && !parameters_.exclude_input;
  if (parameters_.return_log_probs) {
    const uint32_t k = parameters.top_k_of_log_probs;
    spec.output.logprobs = k > 1 ? k : 0;
    spec.output.processed_logprobs = true;
  }
  if (shows_beams()) {
    spec.sampling.beam_snapshot_interval = std::min<uint32_t>(
        static_cast<uint32_t>(parameters_.stream_interval), kLongestSnapshotInterval);
    spec.sampling.beam_snapshot_offset = static_cast<uint32_t>(output_.padded_prompt_tokens());
  }
  return ValidatedRequest::Make(std::move(spec), *context().dispatcher->models());
}

absl::Status GenerationInference::Begin(std::vector<std::vector<int32_t>> prompts) {
  for (size_t row = 0; row < prompts.size(); ++row) {
    const RowParameters& parameters = parameters_.rows[row];
    ASSIGN_OR_RETURN(std::vector<int32_t> prompt, PromptOf(row, std::move(prompts[row])));
    output_.AddRow({std::move(prompt), static_cast<int32_t>(parameters.stopping.max_tokens),
                    FillIdOf(parameters)});
    if (shows_beams()) beam_output_.AddRow(output_.rows().back());
  }
  std::vector<ValidatedRequest> requests;
  for (size_t row = 0; row < prompts.size(); ++row) {
    const std::vector<int32_t>& prompt = output_.rows()[row].prompt;
    absl::StatusOr<ValidatedRequest> validated = MakeRow(row, prompt);
    if (!validated.ok()) return NameTensors(request(), row, validated.status());
    if (const auto tokens = validated->MaxTokensAfter(prompt.size()); !tokens.ok()) {
      return NameTensors(request(), row, tokens.status());
    }
    requests.push_back(*std::move(validated));
  }
  RETURN_IF_ERROR(CheckOutputSize());
  for (size_t row = 0; row < requests.size(); ++row) {
    rows_.push_back(std::make_unique<RowSink>(this, row));
  }
  for (size_t row = 0; row < requests.size() && !ended(); ++row) {
    rows_[row]->generation =
        context().dispatcher->Begin(std::move(requests[row]), rows_[row].get());
  }
  return absl::OkStatus();
}

// One long row widens the tensors of all rows, and each response holds them whole.
absl::Status GenerationInference::CheckOutputSize() const {
  const int64_t width = int64_t{output_.padded_prompt_tokens()} + output_.max_tokens();
  const int64_t elements = request().rows() * int64_t{parameters_.beam_width} * width;
  if (elements <= kMaxOutputElements) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(RequestIdPrefix(request().request().id), TensorNames(request()).max_tokens, ": ",
                   request().rows(), " rows of ", parameters_.beam_width, " beams and up to ",
                   width, " tokens make an output of ", elements, " elements; at most ",
                   kMaxOutputElements, " are allowed"));
}

void GenerationInference::OnRowStarted() {
  if (started_ != request().request().arrival) return;
  started_ = Clock::now();
  Stamp("COMPUTE_START");
}

float GenerationInference::RenormalizedLogProb(size_t row, const OutputToken& token) const {
  const uint32_t k = parameters_.rows[row].top_k_of_log_probs;
  if (k == 0) return token.logprob;
  double sum = 0;
  for (const auto& [id, logprob] : token.top_logprobs) sum += std::exp(double{logprob});
  if (k == 1 || sum <= 0) return 0;  // of one candidate
  return static_cast<float>(double{token.logprob} - std::log(sum));
}

absl::Status GenerationInference::OnChunk(size_t row, const OutputChunk& chunk) {
  if (ended()) return absl::OkStatus();
  OutputSequence& sequence = SequenceOf(row, chunk.sample_index);
  sequence.text.append(chunk.text);
  if (!chunk.has_token) return absl::OkStatus();
  sequence.token_ids.push_back(chunk.token.id);
  sequence.text_ends.push_back(static_cast<uint32_t>(sequence.text.size()));
  if (parameters_.return_log_probs) {
    sequence.log_probs.push_back(RenormalizedLogProb(row, chunk.token));
    const double before = sequence.cum_log_probs.empty() ? 0 : sequence.cum_log_probs.back();
    sequence.cum_log_probs.push_back(before + double{chunk.token.logprob});
  }
  last_token_ = Clock::now();
  const auto tokens = static_cast<int32_t>(sequence.token_ids.size());
  const int32_t position = output_.padded_prompt_tokens() + tokens;
  if (parameters_.partial && position % parameters_.stream_interval == 0) NotifySoon();
  return absl::OkStatus();
}

void GenerationInference::OnBeams(size_t row, BeamLook look) {
  if (ended()) return;
  if (prompt_texts_[row].empty()) prompt_texts_[row] = look.echo;
  BeamsAtStep shown;
  shown.steps = look.steps;
  for (BeamState& beam : look.beams) {
    OutputSequence sequence;
    sequence.ended = true;  // it shows all its text
    sequence.lead = prompt_texts_[row];
    sequence.text = std::move(beam.text);
    sequence.token_ids = std::move(beam.token_ids);
    if (parameters_.return_log_probs) {
      sequence.log_probs = std::move(beam.logprobs);
      sequence.log_probs.resize(sequence.token_ids.size());
      sequence.cum_log_probs.resize(sequence.token_ids.size());
      if (!sequence.token_ids.empty()) {
        sequence.cum_log_probs.back() = double{beam.cumulative_logprob};
      }
    }
    shown.beams.push_back(std::move(sequence));
  }
  last_token_ = Clock::now();
  beam_partials_.Add(row, std::move(shown));
  NotifySoon();
}

void GenerationInference::OnSampleEnd(size_t row, const SampleEnd& end) {
  OutputSequence& sequence = SequenceOf(row, end.sample_index);
  sequence.ended = true;
  if (parameters_.beam_width > 1 && !sequence.cum_log_probs.empty()) {
    sequence.cum_log_probs.back() = double{end.cumulative_logprob};
  }
  if (parameters_.partial) NotifySoon();
}

// One place is held for the request: held by each row, they could keep the last rows from starting.
void GenerationInference::OnRowEnd(size_t row, const absl::Status& status, InflightPlace place) {
  if (!status.ok()) return Fail(NameTensors(request(), row, status));
  place_ = std::move(place);
  if (++num_rows_ended_ == rows_.size()) NotifySoon();
}

void GenerationInference::PlanPartials() {
  if (!parameters_.partial || parameters_.beam_width > 1) return;
  // The step in which everything stops, and the last one that can be, belong to the final response.
  const int32_t most = output_.all_ended()
                           ? output_.longest() - 1
                           : std::min(output_.complete_steps(), output_.max_tokens() - 1);
  for (int32_t steps = last_planned_ + 1; steps <= most; ++steps) {
    const int32_t position = output_.padded_prompt_tokens() + steps;
    if (position % parameters_.stream_interval == 0) partials_.push_back(steps);
  }
  last_planned_ = std::max(last_planned_, most);
}

void GenerationInference::PlanBeams() {
  while (std::optional<BeamsAtStep> next = beam_partials_.Next(&output_)) {
    num_beam_bytes_ += NumBytes(*next);
    beams_.push_back(*std::move(next));
  }
  while (num_beam_bytes_ > kMaxKeptBeamBytes && beams_.size() > 1) {
    num_beam_bytes_ -= NumBytes(beams_.front());
    beams_.pop_front();
  }
}

void GenerationInference::Update() {
  if (ended() || rows_.empty()) return;
  PlanPartials();
  if (shows_beams()) PlanBeams();
  if (num_rows_ended_ < rows_.size()) return;
  final_ready_ = true;
  const InferRequest& call = request().request();
  const auto opted_in = call.parameters.find(kEnableEmptyFinalResponse);
  // As the ensemble of the succeeded system does it: data, then the empty mark.
  empty_final_ready_ = call.streaming && is_text() && opted_in != call.parameters.end() &&
                       std::get<bool>(opted_in->second);
  InferTimes times;
  const auto now = Clock::now();
  times.compute_input = encoded_ - call.arrival;
  times.queue = started_ - encoded_;
  times.compute_infer = last_token_ - started_;
  times.compute_output = now - last_token_;
  times.total = now - call.arrival;
  Stamp("COMPUTE_OUTPUT_START");
  Stamp("COMPUTE_END");
  CountExecutions(times);
  Succeed(times);
}

void GenerationInference::CountEncoding(std::chrono::nanoseconds duration) const {
  InferTimes encoding;
  encoding.compute_infer = encoding.total = duration;
  context().of_preprocessing->AddExecution(request().rows(), encoding);
}

void GenerationInference::CountExecutions(const InferTimes& times) {
  if (!is_text()) return;
  CountEncoding(times.compute_input);
  InferTimes generating;
  generating.queue = times.queue;
  generating.compute_infer = times.compute_infer;
  generating.total = times.queue + times.compute_infer;
  context().of_fastertransformer->AddExecution(request().rows(), generating);
  InferTimes decoding;
  decoding.compute_infer = decoding.total = times.compute_output;
  context().of_postprocessing->AddExecution(request().rows(), decoding);
}

void GenerationInference::CountFailedPart(const absl::Status& status) {
  if (!is_text()) return;
  const auto now = Clock::now();
  if (encoding_) {
    return context().of_preprocessing->AddFailure(status, now - request().request().arrival);
  }
  CountEncoding(encoded_ - request().request().arrival);
  context().of_fastertransformer->AddFailure(status, now - encoded_);
}

bool GenerationInference::HasNext() const {
  return status().ok() &&
         (!partials_.empty() || !beams_.empty() || final_ready_ || empty_final_ready_);
}

absl::StatusOr<InferResponse> GenerationInference::Next() {
  CARAVAN_CHECK(HasNext());
  if (!partials_.empty()) {
    // A delta of several steps says the same in one message, where the client is slower than they.
    if (parameters_.delta) partials_.erase(partials_.begin(), partials_.end() - 1);
    const int32_t steps = partials_.front();
    partials_.pop_front();
    ASSIGN_OR_RETURN(InferResponse response, Build(&output_, steps));
    Finalize(false, &response);
    return response;
  }
  if (!beams_.empty()) {
    BeamsAtStep beams = std::move(beams_.front());
    beams_.pop_front();
    num_beam_bytes_ -= NumBytes(beams);
    ASSIGN_OR_RETURN(InferResponse response, BuildBeams(std::move(beams)));
    Finalize(false, &response);
    return response;
  }
  if (final_ready_) {
    final_ready_ = false;
    ASSIGN_OR_RETURN(InferResponse response, Build(&output_, output_.longest()));
    Finalize(!empty_final_ready_, &response);
    return response;
  }
  empty_final_ready_ = false;
  InferResponse response = MakeResponse();
  Finalize(true, &response);
  return response;
}

absl::StatusOr<InferResponse> GenerationInference::BuildBeams(BeamsAtStep beams) {
  for (size_t i = 0; i < beams.beams.size(); ++i) {
    beam_output_.sequence(i) = std::move(beams.beams[i]);
  }
  return Build(&beam_output_, beams.steps);
}

absl::StatusOr<InferResponse> GenerationInference::Build(BatchOutput* output, int32_t steps) {
  InferResponse response = MakeResponse();
  const bool first = !std::exchange(any_taken_, true);
  const int32_t since = std::exchange(last_taken_, steps);
  response.outputs.reserve(outputs_.size());
  for (const std::string& name : outputs_) {
    const absl::Status status = AddOutput(MakeOutput(output, name, steps, since, first), &response);
    if (status.ok()) continue;
    Fail(status);
    return this->status();
  }
  return response;
}

InferOutput GenerationInference::MakeOutput(BatchOutput* output, const std::string& name,
                                            int32_t steps, int32_t since, bool first) {
  if (name == "OUTPUT_0" || name == "text_output") {
    return output->Text(name, steps, name == "OUTPUT_0");
  }
  if (name == "output_ids") return output->TokenIds(name, steps, since, first);
  if (name == "sequence_length") return output->SequenceLength(name, steps);
  if (name == "cum_log_probs") return output->CumLogProbs(name, steps);
  return output->OutputLogProbs(name, steps, since);
}

void GenerationInference::Stop() {
  if (tokenizer_call_ != nullptr) tokenizer_call_->Cancel();
  for (const std::unique_ptr<RowSink>& row : rows_) {
    if (row->generation == nullptr) continue;
    row->generation->Detach();
    row->generation->Cancel(absl::CancelledError("the request ended"));
  }
}

}  // namespace caravan
