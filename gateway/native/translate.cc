#include "gateway/native/translate.h"

#include <algorithm>
#include <map>
#include <utility>

namespace caravan {
namespace {

std::vector<int32_t> ToVector(const google::protobuf::RepeatedField<int32_t>& ids) {
  return {ids.begin(), ids.end()};
}

std::vector<std::string> TakeAll(google::protobuf::RepeatedPtrField<std::string>* texts) {
  return {std::make_move_iterator(texts->begin()), std::make_move_iterator(texts->end())};
}

PromptPart ToPart(v1::PromptPart* part) {
  PromptPart out;
  switch (part->part_case()) {
    case v1::PromptPart::kText:
      out.kind = PromptPart::Kind::kText;
      out.text = std::move(*part->mutable_text());
      break;
    case v1::PromptPart::kTokenIds:
      out.kind = PromptPart::Kind::kTokenIds;
      out.token_ids = ToVector(part->token_ids().ids());
      break;
    case v1::PromptPart::kEmbeddings:
      out.kind = PromptPart::Kind::kEmbeddings;
      break;
    case v1::PromptPart::kMedia:
      out.kind = PromptPart::Kind::kMedia;
      break;
    case v1::PromptPart::PART_NOT_SET:
      break;
  }
  out.parse_special_tokens = part->parse_special_tokens();
  out.omit_bos = part->omit_bos();
  return out;
}

RequestSpec::Sampling ToSampling(v1::SamplingParams* sampling) {
  RequestSpec::Sampling out;
  if (sampling->has_temperature()) out.temperature = sampling->temperature();
  out.top_k = sampling->top_k();
  if (sampling->has_top_p()) out.top_p = sampling->top_p();
  out.min_p = sampling->min_p();
  if (sampling->has_repetition_penalty()) out.repetition_penalty = sampling->repetition_penalty();
  out.presence_penalty = sampling->presence_penalty();
  out.frequency_penalty = sampling->frequency_penalty();
  out.logit_bias.insert(sampling->logit_bias().begin(), sampling->logit_bias().end());
  out.bad_words = TakeAll(sampling->mutable_bad_words());
  for (const v1::TokenIds& ids : sampling->bad_token_ids()) {
    out.bad_token_ids.push_back(ToVector(ids.ids()));
  }
  if (sampling->has_seed()) out.seed = sampling->seed();
  out.beam_width = sampling->beam_width();
  out.length_penalty = sampling->length_penalty();
  out.beam_diversity_rate = sampling->beam_diversity_rate();
  if (sampling->has_top_p_decay()) out.top_p_decay = sampling->top_p_decay();
  if (sampling->has_top_p_min()) out.top_p_min = sampling->top_p_min();
  if (sampling->has_top_p_reset_id()) out.top_p_reset_id = sampling->top_p_reset_id();
  out.penalize_prompt = sampling->penalize_prompt();
  return out;
}

RequestSpec::Stopping ToStopping(v1::StoppingParams* stopping) {
  RequestSpec::Stopping out;
  out.max_tokens = stopping->max_tokens();
  out.min_tokens = stopping->min_tokens();
  out.stop_token_ids = ToVector(stopping->stop_token_ids());
  out.stop_strings = TakeAll(stopping->mutable_stop_strings());
  out.include_stop = stopping->include_stop();
  out.ignore_eos = stopping->ignore_eos();
  for (const v1::TokenIds& ids : stopping->stop_token_sequences()) {
    out.stop_token_sequences.push_back(ToVector(ids.ids()));
  }
  return out;
}

RequestSpec::Output ToOutput(const v1::OutputOptions& output) {
  RequestSpec::Output out;
  if (output.has_logprobs()) out.logprobs = output.logprobs();
  out.echo_prompt = output.echo_prompt();
  out.keep_special_tokens = output.keep_special_tokens();
  out.no_text = output.no_text();
  out.processed_logprobs = output.processed_logprobs();
  return out;
}

v1::Finished::Reason ToProto(EndReason reason) {
  switch (reason) {
    case EndReason::kStopToken:
      return v1::Finished::STOP_TOKEN;
    case EndReason::kStopString:
      return v1::Finished::STOP_STRING;
    case EndReason::kLength:
      return v1::Finished::LENGTH;
    case EndReason::kCancelled:
      return v1::Finished::CANCELLED;
    case EndReason::kError:
      return v1::Finished::ERROR;
  }
  return v1::Finished::REASON_UNSPECIFIED;
}

void Fill(const ReplicaStatus& replica, v1::ReplicaInfo* out) {
  out->set_address(replica.address);
  out->set_ready(replica.ready);
  out->set_tensor_parallel(replica.model.tensor_parallel());
  out->set_instance(replica.instance);
  out->set_epoch(replica.epoch);
  out->set_device(replica.model.device());
  out->set_waiting_requests(replica.load.waiting_requests());
  out->set_running_sequences(replica.load.running_sequences());
  out->set_used_blocks(replica.load.used_blocks());
  out->set_cached_blocks(replica.load.cached_blocks());
  out->set_total_blocks(replica.model.total_blocks());
  out->set_block_tokens(replica.model.block_tokens());
  out->set_generated_tokens_per_second(replica.generated_tokens_per_second);
  const v1::WorkerModelStatus& status = replica.load.model_status();
  const bool loaded = status.state() == v1::WorkerModelStatus::LOADED;
  out->set_state(replica.ready ? "ready" : loaded ? "not ready" : NameOf(status.state()));
  out->set_reason(status.reason());
  for (const v1::WorkerRank& rank : replica.ranks) {
    v1::RankInfo* info = out->add_ranks();
    info->set_rank(rank.rank());
    info->set_host(rank.host());
    info->set_pid(rank.pid());
    info->set_state(rank.state());
    info->set_memory_bytes(rank.memory_bytes());
    info->set_device(rank.device());
    info->set_device_memory_bytes(rank.device_memory_bytes());
    info->set_device_total_bytes(rank.device_total_bytes());
  }
}

}  // namespace

RequestSpec ToSpec(v1::GenerateRequest request, const CallInfo& call) {
  RequestSpec spec;
  spec.request_id = request.request_id().empty() ? call.request_id : request.request_id();
  spec.traceparent = call.traceparent;
  spec.client = call.client;
  spec.arrival = std::chrono::steady_clock::now();
  spec.deadline = EarlierDeadline(spec.arrival, request.timeout_ms(), call.deadline);
  spec.model = request.model();
  spec.adapter = request.adapter();
  spec.tenant = request.tenant();
  for (v1::PromptPart& part : *request.mutable_prompt()) spec.prompt.push_back(ToPart(&part));
  spec.resume_token_ids = ToVector(request.resume_token_ids());
  spec.priority = request.priority();
  spec.num_samples = request.num_samples() == 0 ? 1 : request.num_samples();
  spec.has_response_format = request.has_response_format();
  for (const v1::LogitsProcessor& processor : request.logits_processors()) {
    spec.logits_processors.push_back(processor.name());
  }
  spec.sampling = ToSampling(request.mutable_sampling());
  spec.stopping = ToStopping(request.mutable_stopping());
  spec.output = ToOutput(request.output());
  return spec;
}

OutputView ViewOf(const v1::OutputOptions& output) {
  return {output.token_ids(), output.has_logprobs(), nullptr};
}

v1::Started ToProto(const StartedInfo& started) {
  v1::Started out;
  out.set_request_id(started.request_id);
  out.set_model(started.model);
  out.set_seed(started.seed);
  out.set_prompt_tokens(static_cast<uint32_t>(started.prompt_tokens));
  return out;
}

void AppendTo(OutputChunk chunk, const OutputView& view, v1::TokenEvent* event) {
  if (event->num_tokens() == 0) {
    event->set_sample_index(static_cast<uint32_t>(chunk.sample_index));
    event->set_first_position(static_cast<uint32_t>(chunk.position));
  }
  if (event->text().empty()) {
    event->set_text(std::move(chunk.text));
  } else {
    event->mutable_text()->append(chunk.text);
  }
  if (!chunk.has_token) return;
  event->set_num_tokens(event->num_tokens() + 1);
  if (view.token_ids) event->add_token_ids(chunk.token.id);
  if (!view.logprobs) return;
  v1::TokenLogprobs* logprobs = event->add_logprobs();
  logprobs->set_token_id(chunk.token.id);
  logprobs->set_logprob(chunk.token.logprob);
  for (const auto& [id, logprob] : chunk.token.top_logprobs) {
    v1::TopLogprob* top = logprobs->add_top();
    top->set_token_id(id);
    top->set_logprob(logprob);
    if (view.vocabulary != nullptr && id >= 0 &&
        static_cast<size_t>(id) < view.vocabulary->tokens.size()) {
      top->set_text(view.vocabulary->tokens[id]);
    }
  }
}

v1::Finished ToProto(const SampleEnd& end) {
  v1::Finished out;
  out.set_sample_index(static_cast<uint32_t>(end.sample_index));
  out.set_reason(ToProto(end.reason));
  out.set_stop_string(end.stop_string);
  out.set_stop_token_id(end.stop_token_id);
  out.set_generated_tokens(static_cast<uint32_t>(end.generated_tokens));
  out.set_cached_prompt_tokens(static_cast<uint32_t>(end.cached_prompt_tokens));
  out.set_cumulative_logprob(end.cumulative_logprob);
  out.set_code(static_cast<int>(end.status.code()));
  out.set_message(std::string(end.status.message()));
  return out;
}

v1::ListModelsResponse ToProto(const std::vector<ReplicaStatus>& replicas) {
  std::map<std::string, v1::ModelInfo> models;
  for (const ReplicaStatus& replica : replicas) {
    if (replica.model.name().empty()) continue;  // never reached
    v1::ModelInfo& model = models[replica.model.name()];
    model.set_name(replica.model.name());
    Fill(replica, model.add_replicas());
    if (replica.model.vocabulary_size() == 0) continue;  // it was not loaded yet
    model.set_architecture(replica.model.architecture());
    model.set_vocabulary_size(replica.model.vocabulary_size());
    model.set_max_context_tokens(replica.model.max_context_tokens());
    model.set_dtype(replica.model.dtype());
    model.set_fingerprint(replica.model.fingerprint());
  }
  v1::ListModelsResponse response;
  for (auto& [name, model] : models) *response.add_models() = std::move(model);
  return response;
}

}  // namespace caravan
