#include "gateway/triton/protocol/generation_parameters.h"

#include <algorithm>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/utf8.h"
#include "gateway/triton/protocol/word_list.h"

namespace caravan {
namespace {

// FasterTransformer's own limit.
constexpr uint64_t kMaxTopK = 1024;
// So many of the most probable tokens are known of each draw; beyond, log probabilities are of the
// whole vocabulary.
constexpr uint32_t kMaxRenormalized = 20;
constexpr uint64_t kMaxBeamWidth = 16;
// Limits of the request behind it, told here in terms of the tensors.
constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 256;
constexpr size_t kMaxStopSequences = 64;
constexpr size_t kMaxBadWords = 256;
constexpr uint64_t kDefaultMaxTokens = 16;  // where a newer client names none

// The strings of the tensors of words, by the tensor's name.
using WordTexts = std::map<std::string, std::vector<std::string_view>>;

WordTexts UnpackWords(const CheckedRequest& request) {
  WordTexts texts;
  for (const char* tensor : {"INPUT_2", "INPUT_3", "bad_words", "stop_words"}) {
    const CheckedInput* input = request.Find(tensor);
    if (input != nullptr) texts[tensor] = UnpackBytes(input->data);
  }
  return texts;
}

class RowReader {
 public:
  // `texts` of the whole request, for all its rows.
  RowReader(const CheckedRequest& request, const WordTexts& texts, const ServedModel& model,
            const GenerationDefaults& defaults, int64_t row)
      : request_(request), texts_(texts), model_(model), defaults_(defaults), row_(row) {}

  absl::StatusOr<RowParameters> Read() {
    RETURN_IF_ERROR(ReadLength());
    RETURN_IF_ERROR(ReadTemperatureAndPenalties());
    RETURN_IF_ERROR(ReadSelection());
    RETURN_IF_ERROR(ReadNucleusDecay());
    RETURN_IF_ERROR(ReadEnds());
    RETURN_IF_ERROR(ReadWords());
    return std::move(out_);
  }

 private:
  template <typename... Parts>
  absl::Status Invalid(const std::string& tensor, const Parts&... parts) const {
    return absl::InvalidArgumentError(
        absl::StrCat(RequestIdPrefix(request_.request().id), tensor, " of row ", row_, parts...));
  }

  // Of two names of one thing, the one that was given.
  std::string Named(const char* own, const char* newer) const {
    return request_.Find(newer) != nullptr ? newer : own;
  }

  absl::Status ReadReal(const std::string& tensor, float least, float most, float* value) const {
    const std::optional<float> given = request_.Scalar<float>(tensor, row_);
    if (!given.has_value()) return absl::OkStatus();
    if (!(*given >= least && *given <= most)) {  // NaN is out of every range
      return Invalid(tensor, " is ", *given, "; it must be in [", least, ", ", most, "]");
    }
    *value = *given;
    return absl::OkStatus();
  }

  absl::Status ReadLength() {
    const bool text = request_.model().kind == TritonModelKind::kEnsemble;
    std::string tensor = text ? "INPUT_1" : "request_output_len";
    uint64_t length = kDefaultMaxTokens;
    if (request_.uses_newer_names()) {
      tensor = "max_tokens";
      ASSIGN_OR_RETURN(const std::optional<uint64_t> given, request_.Unsigned(tensor, row_));
      length = given.value_or(length);
    } else {
      const CheckedInput& input = *request_.Find(tensor);
      const int64_t width = input.shape[1];
      if (width < 1) return Invalid(tensor, " has no element");
      length = ElementAt<uint32_t>(input.data, static_cast<size_t>(row_ * width));
    }
    const auto most = static_cast<uint64_t>(model_.max_context_tokens);
    if (length < 1 || length > most) {
      return Invalid(tensor, " is ", length, "; it must be in [1, ", most,
                     "]: the model's context holds ", most, " tokens, prompt included");
    }
    out_.stopping.max_tokens = static_cast<uint32_t>(length);
    ASSIGN_OR_RETURN(const std::optional<uint64_t> least,
                     request_.Unsigned(Named("min_length", "min_tokens"), row_));
    out_.stopping.min_tokens = static_cast<uint32_t>(std::min(least.value_or(0), length));
    return absl::OkStatus();
  }

  absl::Status ReadTemperatureAndPenalties() {
    RequestSpec::Sampling* sampling = &out_.sampling;
    RETURN_IF_ERROR(ReadReal("temperature", 0, 100, &sampling->temperature));
    RETURN_IF_ERROR(ReadReal("repetition_penalty", std::numeric_limits<float>::min(), 100,
                             &sampling->repetition_penalty));
    RETURN_IF_ERROR(ReadReal("presence_penalty", -100, 100, &sampling->presence_penalty));
    RETURN_IF_ERROR(ReadReal("frequency_penalty", -100, 100, &sampling->frequency_penalty));
    RETURN_IF_ERROR(
        ReadReal("beam_search_diversity_rate", -100, 100, &sampling->beam_diversity_rate));
    RETURN_IF_ERROR(
        ReadReal(Named("len_penalty", "length_penalty"), -10, 10, &sampling->length_penalty));
    sampling->penalize_prompt = !request_.uses_newer_names();
    ASSIGN_OR_RETURN(const std::optional<uint64_t> width, request_.Unsigned("beam_width", 0));
    sampling->beam_width = static_cast<uint32_t>(width.value_or(1));
    // No seed: 0, so that equal requests have equal answers.
    sampling->seed = request_.Scalar<uint64_t>("random_seed", row_).value_or(0);
    if (request_.Find("seed") == nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::optional<uint64_t> seed, request_.Unsigned("seed", row_));
    sampling->seed = *seed;
    return absl::OkStatus();
  }

  absl::Status ReadSelection() {
    const std::string p_name = Named("runtime_top_p", "top_p");
    uint64_t k = request_.Scalar<uint32_t>("runtime_top_k", row_).value_or(0);
    if (request_.Find("top_k") != nullptr) {
      ASSIGN_OR_RETURN(const std::optional<uint64_t> given, request_.Unsigned("top_k", row_));
      k = *given;
    }
    const std::optional<float> p_given = request_.Scalar<float>(p_name, row_);
    if (p_given.has_value() && *p_given != *p_given) return Invalid(p_name, " is not a number");
    const float p = std::clamp(p_given.value_or(0), 0.0F, 1.0F);
    k = std::min({k, kMaxTopK, static_cast<uint64_t>(model_.vocabulary_size)});
    if (k == 0 && p == 0) k = 1;
    nucleus_ = k == 0;
    out_.sampling.top_k = static_cast<uint32_t>(k);
    out_.sampling.top_p = p == 0 ? 1 : p;
    if (out_.sampling.beam_width > 1) return absl::OkStatus();
    if (k <= kMaxRenormalized) out_.top_k_of_log_probs = static_cast<uint32_t>(k);
    // The greedy path draws nothing; with a temperature, log probabilities are of its logits.
    if (k == 1 && out_.sampling.temperature == 1) out_.sampling.temperature = 0;
    return absl::OkStatus();
  }

  // Factual-nucleus sampling: only rows of the top-p kind have it. Values outside (0, 1] are what
  // FasterTransformer makes of them.
  absl::Status ReadNucleusDecay() {
    if (!nucleus_) return absl::OkStatus();
    const auto in_range = [](float value) { return value > 0 && value <= 1; };
    const float decay = request_.Scalar<float>("top_p_decay", row_).value_or(1);
    const float least = request_.Scalar<float>("top_p_min", row_).value_or(1e-6F);
    out_.sampling.top_p_decay = in_range(decay) ? decay : 1;
    out_.sampling.top_p_min = in_range(least) ? least : 0.5F;
    const std::optional<uint32_t> reset = request_.Scalar<uint32_t>("top_p_reset_ids", row_);
    if (reset.has_value() && *reset < static_cast<uint32_t>(model_.vocabulary_size)) {
      out_.sampling.top_p_reset_id = static_cast<int32_t>(*reset);
    }
    return absl::OkStatus();
  }

  absl::Status ReadEnds() {
    out_.start_id = request_.Scalar<uint32_t>("start_id", row_);
    out_.end_id = request_.Scalar<uint32_t>("end_id", row_);
    if (!out_.end_id.has_value()) return absl::OkStatus();
    out_.stopping.ignore_eos = !defaults_.stop_on_tokenizer_eos;
    if (*out_.end_id < static_cast<uint32_t>(model_.vocabulary_size)) {
      out_.stopping.stop_token_ids.push_back(static_cast<int32_t>(*out_.end_id));
    }
    return absl::OkStatus();
  }

  // The words of a tensor of text: one line a row (element 0), or, of newer clients, a word an
  // element.
  absl::StatusOr<std::vector<std::string>> ReadWordTexts(const std::string& tensor,
                                                         bool one_line) const {
    const CheckedInput* input = request_.Find(tensor);
    if (input == nullptr) return std::vector<std::string>();
    const auto width = static_cast<size_t>(input->shape[1]);
    const std::vector<std::string_view>& texts = texts_.at(tensor);
    const size_t first = static_cast<size_t>(row_) * width;
    if (one_line && width > 0) {
      return ParseWordLine(
          absl::StrCat(RequestIdPrefix(request_.request().id), tensor, " of row ", row_),
          texts[first]);
    }
    std::vector<std::string> words;
    RETURN_IF_ERROR(CheckCount(tensor, width, kMaxLineWords));
    for (size_t i = 0; i < width; ++i) {
      if (!texts[first + i].empty()) words.emplace_back(texts[first + i]);
    }
    return words;
  }

  absl::StatusOr<WordIds> ReadIds(const std::string& tensor) const {
    const CheckedInput* input = request_.Find(tensor);
    if (input == nullptr) return WordIds();
    return ReadWordIds(tensor, *input, row_, model_.vocabulary_size);
  }

  absl::Status CheckCount(const std::string& tensor, size_t count, size_t most) const {
    if (count <= most) return absl::OkStatus();
    return Invalid(tensor, " has ", count, " words; at most ", most, " are allowed");
  }

  absl::Status CheckTexts(const std::string& tensor, const std::vector<std::string>& words) const {
    for (const std::string& word : words) {
      if (FindInvalidUtf8(word) != std::string::npos) {
        return Invalid(tensor, " has a word that is not UTF-8");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadWords() {
    std::string bad = "bad_words_list";
    std::string stop = "stop_words_list";
    if (request_.model().kind == TritonModelKind::kFasterTransformer) {
      ASSIGN_OR_RETURN(out_.sampling.bad_token_ids, ReadIds(bad));
      ASSIGN_OR_RETURN(out_.stopping.stop_token_sequences, ReadIds(stop));
      RETURN_IF_ERROR(CheckCount(bad, out_.sampling.bad_token_ids.size(), kMaxBadWords));
      return CheckCount(stop, out_.stopping.stop_token_sequences.size(), kMaxStopSequences);
    }
    const bool newer = request_.uses_newer_names();
    bad = newer ? "bad_words" : "INPUT_2";
    stop = newer ? "stop_words" : "INPUT_3";
    ASSIGN_OR_RETURN(out_.sampling.bad_words, ReadWordTexts(bad, !newer));
    ASSIGN_OR_RETURN(out_.stopping.stop_strings, ReadWordTexts(stop, !newer));
    RETURN_IF_ERROR(CheckCount(bad, out_.sampling.bad_words.size(), kMaxBadWords));
    RETURN_IF_ERROR(CheckCount(stop, out_.stopping.stop_strings.size(), kMaxStopStrings));
    RETURN_IF_ERROR(CheckTexts(bad, out_.sampling.bad_words));
    for (const std::string& word : out_.stopping.stop_strings) {
      if (word.size() <= kMaxStopStringBytes) continue;
      return Invalid(stop, " has a word of ", word.size(), " bytes; at most ", kMaxStopStringBytes,
                     " are allowed");
    }
    return CheckTexts(stop, out_.stopping.stop_strings);
  }

  const CheckedRequest& request_;
  const WordTexts& texts_;
  const ServedModel& model_;
  const GenerationDefaults& defaults_;
  const int64_t row_;
  bool nucleus_ = false;
  RowParameters out_;
};

absl::Status ReadBeams(const CheckedRequest& request, const ServedModel& model,
                       GenerationParameters* out) {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> width, request.Unsigned("beam_width", 0));
  const uint64_t most = std::min<uint64_t>(kMaxBeamWidth, model.vocabulary_size);
  if (width.value_or(1) > most) {
    return absl::InvalidArgumentError(absl::StrCat(RequestIdPrefix(request.request().id),
                                                   "beam_width is ", *width, "; it must be in [0, ",
                                                   most, "]"));
  }
  out->beam_width = static_cast<uint32_t>(std::max<uint64_t>(1, width.value_or(1)));
  return absl::OkStatus();
}

absl::Status ReadView(const CheckedRequest& request, const GenerationDefaults& defaults,
                      GenerationParameters* out) {
  const bool newer = request.uses_newer_names();
  ASSIGN_OR_RETURN(const std::optional<bool> exclude, request.Flag(kExcludeInput));
  ASSIGN_OR_RETURN(const std::optional<bool> delta, request.Flag(kStreamDelta));
  const std::optional<bool> stream = request.Scalar<bool>("stream", 0);
  out->exclude_input = exclude.value_or(newer);
  out->partial = request.request().streaming && stream.value_or(defaults.decoupled);
  out->delta = out->partial && delta.value_or(newer);
  out->stream_interval = out->delta ? 1 : defaults.stream_interval;
  const auto interval = request.request().parameters.find(kStreamInterval);
  if (interval == request.request().parameters.end()) return absl::OkStatus();
  const auto* value = std::get_if<int64_t>(&interval->second);
  if (value == nullptr || *value < 1 || *value > std::numeric_limits<int>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(RequestIdPrefix(request.request().id),
                                                   "parameter '", kStreamInterval,
                                                   "' must be an int64 of at least 1"));
  }
  out->stream_interval = static_cast<int>(*value);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationParameters> ReadGenerationParameters(const CheckedRequest& request,
                                                              const ServedModel& model,
                                                              const GenerationDefaults& defaults) {
  if (request.Find("prompt_learning_task_name_ids") != nullptr) {
    return absl::InternalError(absl::StrCat(
        RequestIdPrefix(request.request().id),
        "FasterTransformer execute failure: prompt_learning_type is prefix_prompt either "
        "p_prompt_tuning when prompt_learning_task_name_ids are provided."));
  }
  GenerationParameters out;
  RETURN_IF_ERROR(ReadBeams(request, model, &out));
  RETURN_IF_ERROR(ReadView(request, defaults, &out));
  out.return_log_probs = request.Scalar<bool>("is_return_log_probs", 0).value_or(false) ||
                         request.Scalar<bool>("return_log_probs", 0).value_or(false);
  const WordTexts texts = UnpackWords(request);
  for (int64_t row = 0; row < request.rows(); ++row) {
    ASSIGN_OR_RETURN(RowParameters parameters,
                     RowReader(request, texts, model, defaults, row).Read());
    out.rows.push_back(std::move(parameters));
  }
  return out;
}

}  // namespace caravan
