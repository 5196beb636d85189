#include "gateway/triton/protocol/tensor_names.h"

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace caravan {
namespace {

using Replacements = std::vector<std::pair<std::string, std::string>>;

// Lists of words, whose elements errors number.
Replacements ListsOf(const TensorNames& names) {
  return {{"sampling.bad_words[", names.bad_words},
          {"sampling.bad_token_ids[", names.bad_words},
          {"stopping.stop_strings[", names.stop_words},
          {"stopping.stop_token_sequences[", names.stop_words}};
}

Replacements FieldsOf(const TensorNames& names) {
  return {{"prompt[0].text", names.prompt},
          {"prompt[0].token_ids", names.prompt},
          {"sampling.bad_words and bad_token_ids", names.bad_words},
          {"sampling.bad_words", names.bad_words},
          {"sampling.top_k", names.top_k},
          {"sampling.top_p", names.top_p},
          {"sampling.length_penalty", names.length_penalty},
          {"sampling.beam_diversity_rate", "beam_search_diversity_rate"},
          {"sampling.beam_width", "beam_width"},
          {"sampling.temperature", "temperature"},
          {"sampling.repetition_penalty", "repetition_penalty"},
          {"sampling.presence_penalty", "presence_penalty"},
          {"sampling.frequency_penalty", "frequency_penalty"},
          {"stopping.max_tokens", names.max_tokens},
          {"stopping.min_tokens", names.min_tokens},
          {"stopping.stop_token_sequences", names.stop_words},
          {"stopping.stop_strings", names.stop_words},
          {"stopping.stop_token_ids", "end_id"},
          // Not asked for with beams, where alone the product is bounded.
          {" * (1 + output.logprobs)", ""}};
}

// `message` with the tensor that it begins with, its row and word; empty: it begins with none.
std::string NameFirst(const TensorNames& names, size_t row, const std::string& message) {
  for (const auto& [list, tensor] : ListsOf(names)) {
    const size_t end = message.find(']');
    if (!absl::StartsWith(message, list) || end == std::string::npos) continue;
    return absl::StrCat(tensor, " of row ", row, ": word ",
                        message.substr(list.size(), end - list.size()), message.substr(end + 1));
  }
  if (absl::StartsWith(message, "prompt ")) {
    return absl::StrCat(names.prompt, " of row ", row, message.substr(sizeof("prompt") - 1));
  }
  for (const auto& [field, tensor] : FieldsOf(names)) {
    if (!absl::StartsWith(message, field)) continue;
    return absl::StrCat(tensor, " of row ", row, message.substr(field.size()));
  }
  return "";
}

}  // namespace

TensorNames::TensorNames(const CheckedRequest& request)
    : prompt("INPUT_0"),
      max_tokens("INPUT_1"),
      min_tokens("min_length"),
      bad_words("INPUT_2"),
      stop_words("INPUT_3"),
      top_k("runtime_top_k"),
      top_p("runtime_top_p"),
      length_penalty("len_penalty") {
  if (request.model().kind == TritonModelKind::kFasterTransformer) {
    prompt = "input_ids";
    max_tokens = "request_output_len";
    bad_words = "bad_words_list";
    stop_words = "stop_words_list";
  } else if (request.uses_newer_names()) {
    prompt = "text_input";
    max_tokens = "max_tokens";
    bad_words = "bad_words";
    stop_words = "stop_words";
  }
  // Of these, a client may give either name.
  if (request.Find("min_tokens") != nullptr) min_tokens = "min_tokens";
  if (request.Find("top_k") != nullptr) top_k = "top_k";
  if (request.Find("top_p") != nullptr) top_p = "top_p";
  if (request.Find("length_penalty") != nullptr) length_penalty = "length_penalty";
}

absl::Status NameTensors(const CheckedRequest& request, size_t row, const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  const TensorNames names(request);
  const std::string named = NameFirst(names, row, std::string(status.message()));
  if (named.empty()) return status;
  return absl::InvalidArgumentError(absl::StrReplaceAll(named, FieldsOf(names)));
}

}  // namespace caravan
